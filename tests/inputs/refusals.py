"""Assert that a file is refused."""

import pytest

from flysoma.errors import UserError
from flysoma.tasks.volumes.files import read_array


def refuses(path, *parts, **options):
    """Assert that reading a file fails with one line that holds the parts."""
    with pytest.raises(UserError) as caught:
        read_array(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text
