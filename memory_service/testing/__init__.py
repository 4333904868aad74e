"""For tests: a service as a process of its own, and what a store must do wherever it lies.

.. code-block:: python

    from client import MemoryClient
    from memory_service.testing import ServiceProcess

    def test_my_learner(tmp_path):
        with ServiceProcess(tmp_path / "store") as service, MemoryClient(service.url) as client:
            ...
"""

from memory_service.testing.contract import StoreContract
from memory_service.testing.process import Ended, NotStartedError, ServiceProcess
from memory_service.testing.states import expect_loaded_state

__all__ = ["Ended", "NotStartedError", "ServiceProcess", "StoreContract", "expect_loaded_state"]
