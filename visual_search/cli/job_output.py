"""How jobs are shown: one line or one JSON object each, and the exit code that says how a job ended."""

from __future__ import annotations

from collections.abc import Iterator

from storage.catalog import JobProgress
from visual_search.cli.output import ExitCode, console, error_console, print_json, print_table
from workers.submitting.job_document import COUNTS, job_document


def print_job(progress: JobProgress, *, as_json: bool) -> None:
    """Print one job in full."""
    if as_json:
        print_json(job_document(progress))
        return
    job = progress.job
    console().print(f"job {job.id}: {job.kind} {job.source}", markup=False, soft_wrap=True)
    console().print(job_line(progress), markup=False, soft_wrap=True)


def print_jobs(jobs: Iterator[JobProgress] | list[JobProgress], *, as_json: bool) -> None:
    """Print a list of jobs."""
    found = list(jobs)
    if as_json:
        print_json([job_document(progress) for progress in found])
        return
    rows = [
        (
            str(one.job.id),
            one.job.kind,
            one.job.state,
            one.job.started_at.strftime("%Y-%m-%d %H:%M:%S UTC"),
            one.job.source,
            f"{one.done} of {one.listed}",
            str(one.failed),
        )
        for one in found
    ]
    if rows:
        print_table(["job", "kind", "state", "started", "source", "done", "failed"], rows)
    console().print(f"{len(rows)} jobs")


def job_line(progress: JobProgress) -> str:
    """State, counts, rate and ETA in one line."""
    counts = ", ".join(f"{getattr(progress, name)} {name}" for name in COUNTS if getattr(progress, name))
    line = f"{progress.job.state}: {progress.done} of {progress.listed} images done"
    line += f" ({counts})" if counts else ""
    job = progress.job
    if progress.is_over:
        if job.state != "finished" or job.finished_at is None:
            return line
        return (
            f"{line}; {progress.rate:.1f} images/s over {duration((job.finished_at - job.started_at).total_seconds())}"
        )
    eta = "" if progress.eta_seconds is None else f", about {duration(progress.eta_seconds)} left"
    return f"{line}; {progress.rate:.1f} images/s{eta}"


def follow(looks: Iterator[JobProgress], *, quiet: bool) -> JobProgress:
    """Show each look at a job on standard error until the last one, which is returned."""
    output = error_console()
    last: JobProgress | None = None
    if output.is_terminal and not quiet:
        with output.status("") as status:
            for last in looks:
                status.update(job_line(last).replace("[", r"\["))
    else:
        for look in looks:
            if not quiet and (last is None or job_line(look) != job_line(last)):
                output.print(job_line(look), markup=False, soft_wrap=True)
            last = look
    assert last is not None  # noqa: S101 - watching a job yields at least once
    return last


def exit_code_of_job(progress: JobProgress) -> ExitCode:
    """As `index` has them: 3 when some images failed, 1 when the job did not come to its end."""
    if progress.job.state != "finished":
        return ExitCode.FAILED
    return ExitCode.SOME_IMAGES_FAILED if progress.failed else ExitCode.ALL_GOOD


def duration(seconds: float) -> str:
    """A length of time in words: `4 s`, `2 min 5 s`, `2 h 3 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
