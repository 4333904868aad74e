"""The memory behind the buffers of other libraries, a module for each. Each imports that library, and nothing of the
learner."""
