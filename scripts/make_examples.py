"""Makes the documents of `examples/documents` that are copied, cut, converted or computed from others.

Nothing at run time or in the tests depends on this script; the documents themselves are committed. It needs
pandoc 3, LibreOffice 7 or newer and the Python package openpyxl, none of which are dependencies of embedmill,
and the unpacked packages that `examples/README.md` names. Must not fetch anything.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import re
import shutil
import subprocess
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from openpyxl import Workbook
from openpyxl.styles import Font
from openpyxl.worksheet.worksheet import Worksheet

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
OUTPUT = EXAMPLES / "documents"
OWN_TEXTS = EXAMPLES / "sources"

# Below the folder given by --packages, one folder for each package, unpacked.
COPIES = {
    "bzip2-doc/usr/share/doc/bzip2/manual.pdf.gz": "bzip2-manual.pdf",
    "sqlite3-doc/usr/share/doc/sqlite3/whentouse.html": "sqlite-when-to-use.html",
    "xz-utils/usr/share/doc/xz-utils/history.txt.gz": "xz-history.txt",
    "tzdata/usr/share/zoneinfo/leap-seconds.list": "leap-seconds.txt",
    "distro-info-data/usr/share/distro-info/debian.csv": "debian-releases.csv",
    "golang-1.19-src/usr/share/go-1.19/src/compress/testdata/gettysburg.txt": "gettysburg-address.txt",
    "node-releases/package/data/release-schedule/release-schedule.json": "nodejs-release-schedule.json",
    "nodejs/usr/share/doc/nodejs/GOVERNANCE.md": "nodejs-governance.md",
}
OPTICKS = "golang-1.19-src/usr/share/go-1.19/src/testdata/Isaac.Newton-Opticks.txt"
POSTGRESQL_DUMP = "postgresql-doc-15/usr/share/doc/postgresql-doc-15/html/backup-dump.html"
TIME_ZONES = "tzdata/usr/share/zoneinfo/zone1970.tab"
COUNTRIES = "tzdata/usr/share/zoneinfo/iso3166.tab"


class Tools:
    """Pandoc and LibreOffice, by the commands given, working in one scratch folder."""

    def __init__(self, pandoc: str, soffice: str, scratch: Path) -> None:
        self.pandoc_command, self.soffice_command, self.scratch = pandoc, soffice, scratch

    def pandoc(self, source: Path, target: Path, *options: str) -> Path:
        subprocess.run([self.pandoc_command, str(source), "-o", str(target), *options], check=True)
        return target

    def office(self, source: Path, extension: str, filter_options: str = "") -> Path:
        """Convert with LibreOffice; the result lies in the scratch folder under the source's name."""
        folder = self.scratch / "office"
        command = [self.soffice_command, "--headless", "--convert-to", extension + filter_options]
        subprocess.run([*command, "--outdir", str(folder), str(source)], check=True)
        return folder / f"{source.stem}.{extension}"


def copy_unaltered(packages: Path) -> None:
    for source, name in COPIES.items():
        content = (packages / source).read_bytes()
        (OUTPUT / name).write_bytes(gzip.decompress(content) if source.endswith(".gz") else content)


def make_opticks_epub(packages: Path, tools: Tools) -> None:
    """Definitions, axioms I to IV and queries 1 to 16 of Newton's Opticks, without the figures."""
    lines = (packages / OPTICKS).read_text(encoding="utf-8").splitlines()
    definitions = _between(lines, "_DEFINITIONS_", "_AXIOMS._")
    axioms = _between(lines, "_AXIOMS._", "AX. V.")
    queries = _between(lines, "_Query_ 1. ", "_Qu._ 17. ", keep_first=True)
    chapters = [
        "# Definitions",
        re.sub(r"^DEFIN\. ([IVX]+)\.?$", r"## Definition \1", definitions, flags=re.MULTILINE),
        "# Axioms",
        re.sub(r"^AX\. ([IVX]+)\.$", r"## Axiom \1", axioms, flags=re.MULTILINE),
        "# Queries",
        re.sub(r"^_(?:Query|Qu\.)_ (\d+)\. ", r"## Query \1\n\n", queries, flags=re.MULTILINE),
    ]
    text = re.sub(r"\[Illustration[^\]]*\]\n", "", "\n\n".join(chapters))
    markdown = tools.scratch / "opticks.md"
    markdown.write_text(text, encoding="utf-8")
    tools.pandoc(
        markdown,
        OUTPUT / "newton-opticks.epub",
        "--metadata=title:Opticks (extracts)",
        "--metadata=author:Sir Isaac Newton",
        "--metadata=date:1730",
        "--metadata=lang:en",
        "--metadata=rights:Public domain",
        "--toc",
    )


def _between(lines: list[str], first: str, end: str, *, keep_first: bool = False) -> str:
    """The lines from the one that opens with `first` to the next that opens with `end`, exclusive."""
    stripped = [line.strip() for line in lines]
    start = next(number for number, line in enumerate(stripped) if line.startswith(first))
    stop = next(number for number in range(start + 1, len(lines)) if stripped[number].startswith(end))
    return "\n".join(lines[start if keep_first else start + 1 : stop])


def make_postgresql_docx(packages: Path, tools: Tools) -> None:
    """The page 'SQL Dump' of the PostgreSQL 15 manual as a Word document, without its navigation bars."""
    page = (packages / POSTGRESQL_DUMP).read_text(encoding="utf-8")
    page = re.sub(r'(?s)<div class="nav(?:header|footer)">.*?</table>(?:<hr />)?</div>', "", page)
    notice = "From the manual of PostgreSQL 15. Copyright The PostgreSQL Global Development Group."
    cleaned = tools.scratch / "backup-dump.html"
    cleaned.write_text(page.replace("</body>", f"<p>{notice}</p></body>"), encoding="utf-8")
    options = ("--from=html", "--shift-heading-level-by=-1", "--metadata=title:PostgreSQL 15: SQL Dump")
    tools.pandoc(cleaned, OUTPUT / "postgresql-sql-dump.docx", *options)


def make_time_zones_xlsx(packages: Path, tools: Tools) -> None:
    """The zones of Europe and the Atlantic with the countries that keep them, one sheet each."""
    names = dict(_tab_rows(packages / COUNTRIES))
    book = Workbook()
    book.remove(book.worksheets[0])
    for region in ("Europe", "Atlantic"):
        sheet = book.create_sheet(region)
        sheet.append(["Time zone", "Countries", "Latitude", "Longitude"])
        for codes, coordinates, zone, *_ in _tab_rows(packages / TIME_ZONES):
            if zone.startswith(f"{region}/"):
                countries = ", ".join(names[code] for code in codes.split(","))
                sheet.append([zone, countries, *_degrees(coordinates)])
        _dress(sheet, widths=(24, 70, 12, 12))
    book.properties.creator = "IANA time zone database"
    book.save(tools.scratch / "time-zones.xlsx")
    shutil.copy(tools.office(tools.scratch / "time-zones.xlsx", "xlsx"), OUTPUT)


def _tab_rows(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


def _degrees(iso6709: str) -> list[float]:
    """'+5130-00007' (or with seconds) as decimal degrees, north and east positive."""
    values = []
    for sign, digits in re.findall(r"([+-])(\d+)", iso6709):
        degrees_width = len(digits) - (4 if len(digits) > 5 else 2)
        rest = digits[degrees_width:].ljust(4, "0")
        value = int(digits[:degrees_width]) + int(rest[:2]) / 60 + int(rest[2:]) / 3600
        values.append(round(-value if sign == "-" else value, 3))
    return values


def make_handbook_docx(tools: Tools) -> None:
    """By way of LibreOffice Writer, so that the file is as an office suite writes it."""
    draft = tools.pandoc(
        OWN_TEXTS / "employee-handbook.md", tools.scratch / "harbour-mill-employee-handbook.odt"
    )
    shutil.copy(tools.office(draft, "docx"), OUTPUT)


def make_maintenance_pdf(tools: Tools) -> None:
    draft = tools.pandoc(
        OWN_TEXTS / "millstone-maintenance.md", tools.scratch / "harbour-mill-millstone-maintenance.docx"
    )
    shutil.copy(tools.office(draft, "pdf"), OUTPUT)


def make_onboarding_pptx(tools: Tools) -> None:
    tools.pandoc(OWN_TEXTS / "onboarding.md", OUTPUT / "harbour-mill-onboarding.pptx", "--slide-level=2")


FLOURS = [
    # code, product, milled from, stones, pounds for one sack of 16 kg
    ("STR-W-16", "Strong White", "Paragon wheat, 12.8 % protein", "No. 2", 21.40),
    ("ORG-W-16", "Organic White", "organic wheat, 12.2 % protein", "No. 2", 26.90),
    ("SFT-W-16", "Soft White for pastry", "soft wheat, 9.4 % protein", "No. 2", 19.60),
    ("WHM-16", "Wholemeal", "Paragon wheat, all of the grain", "No. 1", 18.80),
    ("WHM-C-16", "Coarse Wholemeal", "Paragon wheat, wide gap", "No. 1", 18.80),
    ("BRN-16", "Brown 85", "wheat with the coarse bran sifted off", "No. 1", 19.20),
    ("HER-16", "Heritage Blend", "Red Lammas and Squareheads", "No. 1", 34.50),
    ("RYE-M-16", "Medium Rye", "rye, 0.8 mm sieve", "No. 1", 20.30),
    ("RYE-F-16", "Fine Rye", "rye, 0.6 mm sieve", "No. 1", 22.10),
    ("SPL-W-16", "White Spelt", "spelt, 13.5 % protein", "No. 2", 39.80),
    ("SPL-H-16", "Whole Spelt", "spelt, all of the grain", "No. 2", 36.40),
    ("BRAN-10", "Bran, sack of 10 kg", "by-product", "both", 6.50),
]


def make_price_list_xlsx(tools: Tools) -> None:
    """With formulas, which LibreOffice then computes: openpyxl alone leaves the cells without values."""
    book = Workbook()
    prices = book.active
    prices.title = "Flour from 1 March 2026"
    header = "Code|Flour|Milled from|Stones|One sack £|From 10 sacks £|Pallet of 40 sacks £"
    prices.append(header.split("|"))
    for row, flour in enumerate(FLOURS, start=2):
        prices.append([*flour, f"=ROUND(E{row}*0.94,2)", f"=ROUND(E{row}*0.88,2)*40"])
    for row in prices.iter_rows(min_row=2, min_col=5, max_col=7):
        for cell in row:
            cell.number_format = "0.00"
    _dress(prices, widths=(12, 24, 38, 9, 12, 17, 22))

    delivery = book.create_sheet("Delivery rounds")
    delivery.append(["Round", "Days", "Towns", "Smallest order", "Driver"])
    delivery.append([1, "Mon, Wed, Fri", "Saltby and the harbour", "5 sacks", "Abdi Warsame"])
    delivery.append([2, "Tue, Thu, Sat", "Wend, Marsh End, Upper Marsh", "5 sacks", "Kit Lowe"])
    delivery.append([3, "Mon, Thu", "Kingsferry and the coast road", "5 sacks", "Sunniva Dahl"])
    delivery.append([4, "Tue, Fri, Sat", "Thornmouth", "5 sacks", "Piotr Zając"])
    delivery.append([5, "Fri, by ferry", "Isle of Skerrow", "12 sacks", "Meena Iyer"])
    _dress(delivery, widths=(8, 16, 34, 16, 18))

    terms = book.create_sheet("Terms")
    for line in (
        "Prices are for sacks of 16 kg unless the name says otherwise. Flour bears no value added tax.",
        "The price from 10 sacks holds for ten of one flour, the pallet price for 40 of up to four flours.",
        "Heritage Blend is sold until the harvest is used up; last year that was in February.",
        "Two per cent is taken off for payment by card when ordering.",
        "The next price list appears on 1 September 2026, after the wheat contracts are settled.",
    ):
        terms.append([line])
    terms.column_dimensions["A"].width = 110
    book.properties.creator = "Harbour Mill, office"
    book.save(tools.scratch / "harbour-mill-price-list.xlsx")
    shutil.copy(tools.office(tools.scratch / "harbour-mill-price-list.xlsx", "xlsx"), OUTPUT)


def _dress(sheet: Worksheet, widths: tuple[int, ...]) -> None:
    for cell in sheet[1]:
        cell.font = Font(bold=True)
    for column, width in zip("ABCDEFGH", widths, strict=False):
        sheet.column_dimensions[column].width = width
    sheet.freeze_panes = "A2"


LOG_COLUMNS = (
    *("time", "pond_level_m", "drive", "stone_2_rpm", "stone_2_bearing_c"),
    *("meal_c", "humidity_pct", "note"),
)


def make_pond_log_csv() -> None:
    """The half-hourly log of the night on which stone No. 2 stopped; it agrees with the incident report."""
    stop = datetime(2026, 3, 11, 21, 50)  # noqa: DTZ001  # local mill time, as the logger writes it
    high_waters = [stop - timedelta(minutes=40) - n * timedelta(hours=12, minutes=25) for n in (2, 1, 0)]
    with (OUTPUT / "harbour-mill-pond-log.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(LOG_COLUMNS)
        for step in range(32):
            time = datetime(2026, 3, 11, 8, 30) + timedelta(minutes=30 * step)  # noqa: DTZ001
            writer.writerow([time.isoformat(timespec="minutes"), *_log_entry(time, stop, high_waters)])


def _log_entry(time: datetime, stop: datetime, high_waters: list[datetime]) -> list[object]:
    last = max(water for water in high_waters if water <= time) if time >= high_waters[0] else high_waters[0]
    tide = high_waters.index(last)
    hours = (time - last).total_seconds() / 3600
    humidity = 61 + round(3 * math.sin(time.hour / 24 * 2 * math.pi))
    if time > stop:
        note = {"22:00": "stopped: bearing 75 C at 21:50", "22:30": "sluice pinned, engineer called"}
        bearing = round(14 + 58 * math.exp(-(time - stop).total_seconds() / 5400), 1)
        return [2.86, "stopped", 0, bearing, "", humidity, note.get(time.strftime("%H:%M"), "")]
    if hours <= 5:
        level = round(3.1 - 0.36 * hours, 2)
        rise, rate = ((30, 0.9), (40, 1.35), (62, 4.6))[tide]
        bearing = round(16 + rise * (1 - math.exp(-hours * rate)), 1)
        note = "warning: bearing above 65 C (office panel)" if bearing >= 65 else ""
        return [level, "tide", 124 - round(2.4 * hours), bearing, round(31 + 0.8 * hours, 1), humidity, note]
    level = round(1.3 + 1.8 * math.sin((hours - 5) / 7.42 * math.pi / 2), 2)
    cooling = round(16 + (28, 38, 62)[tide] * math.exp(-(hours - 5) / 1.5), 1)
    return [level, "idle", 0, cooling, "", humidity, "pond filling"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="folder of the unpacked packages")
    parser.add_argument("--pandoc", default="pandoc")
    parser.add_argument("--soffice", default="soffice")
    options = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        tools = Tools(options.pandoc, options.soffice, Path(scratch))
        copy_unaltered(options.packages)
        make_opticks_epub(options.packages, tools)
        make_postgresql_docx(options.packages, tools)
        make_time_zones_xlsx(options.packages, tools)
        make_handbook_docx(tools)
        make_maintenance_pdf(tools)
        make_onboarding_pptx(tools)
        make_price_list_xlsx(tools)
        make_pond_log_csv()


if __name__ == "__main__":
    main()
