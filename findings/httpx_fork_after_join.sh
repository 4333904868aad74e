#!/usr/bin/env bash
# httpx 0.28.1, OpenSSL 3, Python before 3.13: a process that is forked after all threads were joined hangs in httpx.Client().
#
# What: sixteen threads make an httpx.Client and close it; all are joined. Then the process forks, and the child makes a
#   client in a thread. Again and again, until a child hangs; its parent ends it after five seconds.
# Guess: that works: no thread is left that could hold a lock, and for http:// no TLS is needed at all.
# Seen: about one child in a hundred waits for ever. httpx makes an SSLContext for each client, whatever its addresses are.
#   When a thread that did so ends, OpenSSL cleans up after it, under a lock. join() returns before that, and a fork in
#   between copies the lock as it is: held. From Python 3.13 on join() waits for the end of the thread.
# For this project: a DataLoader forks its workers right after an epoch whose threads have ended; a test hung so once in some
#   hundred runs. Clients of http:// services share one context that nobody uses (client/_connections.py). That saves the
#   50 ms that a client took to be made, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check httpx==0.28.1 httpcore==1.0.9

"$folder/venv/bin/python" -W ignore -I - <<'PYTHON'
import os
import ssl
import sys
import threading
import time

import httpx

THREADS, FORKS, SECONDS = 16, 4000, 5
WAITS_FOR_THREADS = sys.version_info >= (3, 13)


def make_client():
    httpx.Client(verify=False, trust_env=False).close()


def in_threads():
    """Make clients in threads that end together, and join them."""
    together = threading.Event()

    def work():
        make_client()
        together.wait()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    together.set()
    for thread in threads:
        thread.join()
    assert threading.active_count() == 1


def child_hangs():
    child = os.fork()
    if child == 0:
        thread = threading.Thread(target=make_client, daemon=True)
        thread.start()
        thread.join(SECONDS)
        os._exit(thread.is_alive())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


make_client()  # the main thread has used OpenSSL before
hung, forks, until = False, 0, time.monotonic() + 240
while not hung and forks < (FORKS if not WAITS_FOR_THREADS else 1000) and time.monotonic() < until:
    in_threads()
    hung = child_hangs()
    forks += 1
print(f"httpx {httpx.__version__}, {ssl.OPENSSL_VERSION}, Python {sys.version.split()[0]}")
print("expected: no child hangs; threading.active_count() was 1 before each fork")
print(f"seen:     {'child ' + str(forks) + ' hung' if hung else 'none of ' + str(forks)}")
print("source:   httpx/_transports/default.py, HTTPTransport: create_ssl_context, always; crypto/initthread.c of openssl/openssl,")
print("          init_thread_remove_handlers, under a lock, and ossl_init_thread_start, which waits for it;")
print("          Lib/threading.py of Python 3.11 and 3.12, _wait_for_tstate_lock: released before the thread has ended")
assert hung != WAITS_FOR_THREADS, "changed"
print("as described")
PYTHON
