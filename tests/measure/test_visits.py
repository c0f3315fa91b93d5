"""What `page.py` measures is a page that shows what is in the store."""

import sys

import pytest

import page as visiting

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.long
@pytest.mark.parametrize("shape, count, rows", [
    ("turns", 66, [33, 55]), ("sessions", 60, [10, 32])])
def test_each_visit_sees_what_the_two_before_added(
        chromium, tmp_path, monkeypatch, shape, count, rows):
    monkeypatch.setattr(visiting, "SETTLED_MS", 50)
    monkeypatch.setattr(visiting, "USED_MS", 10)
    visits = visiting.visits(chromium, str(tmp_path / "db"), count, shape,
                             len(rows))
    assert [visit["rows"] for visit in visits] == rows
    assert all(visit["requests"] and visit["newest_ms"] for visit in visits)
