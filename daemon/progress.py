"""Progress of long work: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

import structlog
from tqdm import tqdm

log = structlog.get_logger()

LOG_EVERY_SHARE = 0.1
_SHARE = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}"
_COUNT = "{{desc}}: {{percentage:3.0f}}% |{{bar}}| {{n_fmt}}/{{total_fmt}} {unit}"


class ProgressBar:
    """One piece of work; ``show`` may be called as often as one likes."""

    def __init__(self, label: str, *, unit: str | None = None) -> None:
        """Name the work and what is counted; without a unit only the share is shown."""
        self._label = label
        self._unit = unit
        self._bar: tqdm | None = None
        self._logged: tuple[str, float] = ("", -1.0)

    def __enter__(self) -> Self:
        """Start without drawing: the total may not be known yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the finished bar on the screen."""
        if self._bar is not None:
            self._bar.close()

    def show(self, stage: str, done: int, total: int) -> None:
        """Draw, or log, that ``done`` of ``total`` units of ``stage`` are finished."""
        if sys.stderr.isatty():
            self._draw(stage, done, total)
        else:
            self._log(stage, done, total)

    def _draw(self, stage: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=total,
                desc=self._label,
                unit_scale=True,
                dynamic_ncols=True,
                leave=True,
                bar_format=_SHARE if self._unit is None else _COUNT.format(unit=self._unit),
            )
        self._bar.total = total
        self._bar.set_postfix_str(stage, refresh=False)
        self._bar.update(done - self._bar.n)

    def _log(self, stage: str, done: int, total: int) -> None:
        share = done / total if total else 0.0
        last_stage, last_share = self._logged
        if stage != last_stage or share >= last_share + LOG_EVERY_SHARE or share >= 1 > last_share:
            self._logged = (stage, share)
            log.info("progress", work=self._label, stage=stage, done=done, total=total)
