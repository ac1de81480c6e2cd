"""Figures from papers, to stand beside ours: never in one table with them, for the protocols differ."""

from __future__ import annotations

from dataclasses import dataclass

from gpavatar.config import did_you_mean
from gpavatar.evaluation.tables import Table
from gpavatar.types import InputError

GPAVATAR = "Chu et al., GPAvatar, ICLR 2024"
INVERTAVATAR = "Zhao et al., InvertAvatar, 2023"
SELF_CROSS = (
    "method", "PSNR", "SSIM", "LPIPS", "CSIM", "L1", "AED", "APD", "AKD", "cross CSIM", "cross AED", "cross APD",
)  # fmt: skip
COMMON = ("method", "PSNR", "SSIM", "LPIPS", "CSIM", "AED", "APD", "AKD")


@dataclass(frozen=True)
class Published:
    """A table of a paper, as printed there."""

    source: str
    protocol: str
    head: tuple[str, ...]
    rows: tuple[str, ...]  # cells separated by spaces; _ stands for a space in a name

    def table(self) -> Table:
        """With source and protocol in words."""
        rows = tuple(tuple(cell.replace("_", " ") for cell in row.split()) for row in self.rows)
        return Table(f"Published: {self.source}", self.head, rows, (self.protocol,))


TABLES = {
    "gpavatar_vfhq": Published(
        f"{GPAVATAR}, tables 1 and 3, VFHQ",
        "30 videos x 60 frames, evenly spaced; sources: first / first and last / first, middle, last / first, 30 %, "
        "60 %, last; pictures aligned to the face, 512²; CSIM ArcFace, to the source; AED and APD of EMOCA parameters, "
        "AKD of 68 points",
        SELF_CROSS,
        (
            "ROME 19.88 .735 .237 .679 .060 .497 .017 4.53 .531 .936 .026",
            "StyleHEAT 19.95 .738 .251 .603 .065 .593 .024 5.30 .506 .961 .038",
            "OTAvatar 18.10 .600 .346 .660 .092 .734 .035 6.05 .514 .962 .059",
            "Next3D 19.95 .656 .281 .631 .066 .727 .026 5.17 .482 .996 .036",
            "HideNeRF 20.07 .745 .204 .794 .056 .521 .031 5.33 .558 1.024 .044",
            "GPAvatar,_1_source 22.08 .765 .177 .789 .039 .434 .017 3.53 .558 .910 .034",
            "GPAvatar,_2_sources 22.86 .779 .169 .771 .035 .411 .017 3.44 .551 .907 .034",
            "GPAvatar,_3_sources 23.27 .788 .165 .772 .033 .403 .016 3.41 – – –",
            "GPAvatar,_4_sources 23.49 .792 .164 .773 .032 .400 .016 3.41 – – –",
        ),
    ),
    "gpavatar_hdtf": Published(
        f"{GPAVATAR}, table 2, HDTF",
        "19 videos x 100 frames, evenly spaced (OTAvatar's split); otherwise as on VFHQ",
        SELF_CROSS,
        (
            "ROME 20.84 .722 .176 .781 .044 .540 .012 3.93 .721 .929 .017",
            "StyleHEAT 21.91 .772 .210 .705 .045 .527 .015 3.69 .666 .902 .027",
            "OTAvatar 20.50 .695 .241 .765 .064 .681 .020 5.15 .699 1.047 .034",
            "Next3D 20.35 .723 .217 .730 .048 .644 .022 4.19 .622 1.014 .026",
            "HideNeRF 21.38 .803 .147 .907 .038 .499 .027 4.33 .803 1.031 .032",
            "GPAvatar,_1_source 24.21 .834 .131 .871 .029 .427 .012 3.06 .790 .869 .020",
            "GPAvatar,_2_sources 25.36 .849 .122 .851 .026 .406 .012 3.01 .769 .837 .021",
        ),
    ),
    "common_vfhq": Published(
        "GAGAvatar's test split of VFHQ, 1 source, as the papers LAM, OMG-Avatar and FFAvatar report it",
        "reductions of AED and APD differ from GPAvatar's own paper: compare within this table only",
        COMMON,
        (
            "GPAvatar 21.04 .807 .150 .772 .132 .189 4.226",
            "Real3DPortrait 20.88 .780 .154 .750 .150 .268 –",
            "Portrait4D-v2 21.34 .791 .144 .803 .117 .187 3.749",
            "GAGAvatar 21.83 .818 .122 .816 .111 .135 3.349",
            "LAM-80K 22.65 .829 .109 .822 .102 .134 2.059",
            "OMG-Avatar 22.72 .831 .091 .869 .088 – –",
        ),
    ),
    "invertavatar_hdtf": Published(
        f"{INVERTAVATAR}, table 1, HDTF",
        "source: the first frame; the next 500 frames drive; AKD of MediaPipe's points, normalised; cross: driven by "
        "the first 200 frames of another clip",
        ("method", "PSNR", "L1", "LPIPS", "CSIM", "AKD", "cross CSIM", "cross AKD"),
        (
            "InvertAvatar 23.27 .029 .111 .873 .018 .759 .041",
            "OTAvatar 22.85 .035 .133 .794 .136 .669 .420",
            "Next3D-PTI 22.05 .038 .128 .850 .312 .651 .577",
            "StyleHEAT 22.32 .036 .130 .827 .109 .710 .216",
            "ROME 22.91 .034 .127 .832 .120 .722 .239",
        ),
    ),
    "invertavatar_vfhq": Published(
        f"{INVERTAVATAR}, table 2, VFHQ",
        "100 videos x 300 frames; sources evenly spaced in the first 200 frames, scored on the last 100; AKD of "
        "MediaPipe's points, normalised; 2 | 4 sources",
        ("method", "PSNR 2", "LPIPS 2", "AKD 2", "CSIM 2", "PSNR 4", "LPIPS 4", "AKD 4", "CSIM 4"),
        (
            "InvertAvatar 23.39 .170 .024 .867 23.58 .162 .022 .873",
            "OTAvatar 17.39 .281 .696 .736 17.76 .276 .614 .721",
            "InvertAvatar,_one-shot,_averaged 22.40 .202 .029 .846 22.78 .202 .026 .839",
            "Next3D-PTI 20.23 .199 .637 .821 20.74 .177 .287 .845",
        ),
    ),
}


def published_tables(names: list[str]) -> list[Table]:
    """Those of these names; InputError for one that is not known."""
    for name in names:
        if name not in TABLES:
            raise InputError(f"published: no table is called {name!r}; {did_you_mean(name, list(TABLES))}")
    return [TABLES[name].table() for name in names]
