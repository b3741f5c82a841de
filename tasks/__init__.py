"""What a run is and what a worker does; the only folder that knows volumes and queues."""

from .storage.homeless import spare_home

spare_home()
