"""The heartbeat lives, whatever files, queues and stores do."""

import threading
import time

import pytest
from toy_stages import wait_until

from flysoma.tasks.fleet.leases import Leases
from flysoma.tasks.fleet.messages import Lease, Queue
from flysoma.tasks.fleet.signs import Worker


class SlowQueue(Queue):
    """A queue that deletes only when it may, and counts renewals."""

    def __init__(self):
        super().__init__("slow://")
        self.may_delete, self.renewed, self.waiting = threading.Event(), [], list("ab")

    def lease(self, seconds):
        return Lease(self.waiting.pop(), "file:///nowhere", "first", 0)

    def renew(self, lease, seconds):
        self.renewed.append(lease.ticket)

    def delete(self, lease):
        assert self.may_delete.wait(60)


@pytest.mark.parametrize("liveness", [None, "/nowhere/at/all/alive"])
def test_a_lease_is_renewed_while_another_one_is_deleted_slowly(liveness):
    queue = SlowQueue()
    leases = Leases(queue, Worker(1), liveness)
    with leases.heartbeat():
        slow, kept = leases.take(), leases.take()
        deleting = threading.Thread(target=leases.finish, args=(slow,))
        deleting.start()
        count = len(queue.renewed)
        wait_until(lambda: queue.renewed[count:].count(kept.ticket) >= 3)
        queue.may_delete.set()
        deleting.join()
        queue.renewed.clear()
        time.sleep(1)
        assert slow.ticket not in queue.renewed  # a message that is gone is not renewed
