"""Which jobs have trained a run."""

from pathlib import Path

from launcher.run_jobs import JOBS, fruitless_jobs, last_job, read_jobs, record_job, replaced_job


def test_what_was_recorded_is_read_and_damage_is_passed_over(tmp_path: Path) -> None:
    record_job(str(tmp_path), "submitted", "7", {"script": "/a b/job.sh"})
    with open(tmp_path / JOBS, "ab") as stream:
        stream.write(b'{"torn\n[1]\n{"job": 3, "event": "end"}\n')
    record_job(str(tmp_path), "end", "7", {"saved": 40, "next": "9"})
    records = read_jobs(str(tmp_path))
    assert [(record["event"], record["job"]) for record in records] == [("submitted", "7"), ("end", "7")]
    assert last_job(records) == "9"
    assert replaced_job(records, "9") == "7"
    assert replaced_job(records, "7") is None


def test_a_remote_run_and_one_that_is_gone_have_no_jobs(tmp_path: Path) -> None:
    for place in ("memory://run", str(tmp_path / "gone")):
        record_job(place, "submitted", "7", {})
        assert read_jobs(place) == []
    assert last_job([]) is None


def test_jobs_that_saved_nothing_are_counted_from_the_last_one_backwards() -> None:
    ends = [{"event": "end", "job": str(i), "saved": saved} for i, saved in enumerate([40, 80, 80, 80])]
    assert fruitless_jobs(ends, 80) == 3
    assert fruitless_jobs(ends, 120) == 0
    assert fruitless_jobs([], 0) == 0
