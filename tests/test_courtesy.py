"""Work beside a function's own gives way to it."""

import os
import subprocess
import sys
import threading

from libsafe_nb import courtesy

PROCESS = """
import os
from libsafe_nb import courtesy
courtesy.process(3)
courtesy.process(1)
print(os.getpriority(os.PRIO_PROCESS, 0))
"""


def test_a_thread_gives_way_alone():
    found = []

    def work():
        courtesy.thread(4)
        courtesy.thread(2)
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert found == [4]
    assert os.getpriority(os.PRIO_PROCESS, 0) == 0


def test_a_process_gives_way_with_what_it_starts():
    done = subprocess.run(
        [sys.executable, "-c", PROCESS], start_new_session=True, capture_output=True, text=True
    )

    assert done.stdout.strip() == "3", done.stderr
