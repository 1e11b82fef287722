"""Write a report of 1,000 pages as a PDF, one page for each pumping station, and return its true figures.

    python examples/make_report.py report.pdf

It needs fpdf2, which is a development dependency of this project.
"""

import random
import sys
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

RIVERS = ("Elbe", "Weser", "Ems", "Oder", "Spree", "Havel", "Saale", "Main")
REMARKS = (
    "The building was painted in spring and the fence was repaired.",
    "Oil was changed as planned. The spare parts are complete.",
    "The fire brigade inspected the station and found no fault.",
    "The road to the station is closed in winter.",
)


@dataclass(frozen=True)
class Station:
    """The figures of one page."""

    page: int
    river: str
    hours_down: int
    water: int


def make_stations(seed: int = 11, pages: int = 1_000) -> list[Station]:
    """Return the same stations for the same seed."""
    chance = random.Random(seed)
    stations = []
    for page in range(1, pages + 1):
        hours_down = int(chance.expovariate(1 / 6))
        stations.append(Station(page, chance.choice(RIVERS), hours_down, chance.randrange(10_000, 90_000)))
    return stations


def write_report(path: Path, stations: list[Station]) -> None:
    """Write one page for each station."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fpdf
    document = fpdf.FPDF()
    document.set_creation_date(datetime(2026, 1, 2, tzinfo=UTC))  # the same bytes each time
    document.set_font("helvetica", size=11)
    for station in stations:
        document.add_page()
        remark = REMARKS[station.page % len(REMARKS)]
        lines = [f"Annual report 2025, station {station.page} on the {station.river}", remark]
        lines.append(f"It stood still for {station.hours_down} hours and pumped {station.water:,} cubic metres.")
        lines += [f"Month {month}: {remark}" for month in range(1, 13)]
        for row, line in enumerate(lines):
            document.text(20, 20 + 8 * row, line)
    document.output(str(path))


if __name__ == "__main__":
    write_report(Path(sys.argv[1]), make_stations())
