"""What a run of the pipeline leaves, as a value and as a manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass

from data_prep.footage import Found
from data_prep.manifest import ClipRecord, SourceRecord, to_json


@dataclass(frozen=True)
class Outcome:
    """All that was found and what became of it, in the order of names."""

    sources: list[SourceRecord]
    clips: list[ClipRecord]
    found: Found

    @property
    def kept(self) -> list[ClipRecord]:
        """The clips in the set."""
        return [clip for clip in self.clips if not clip.dropped]

    def manifest(self) -> str:
        """JSON lines: one per clip, per file that is quarantined, and per input that was refused."""
        lines = [{"file": one.file, "verdict": "refused", "why": one.why} for one in self.found.refused]
        lines += [
            {"source": one.source, "file": one.file, "verdict": "quarantined", "why": one.quarantined}
            for one in self.sources
            if one.quarantined
        ]
        for clip in self.clips:
            stages = json.loads(to_json(clip))
            lines.append({"clip": stages.pop("clip"), "verdict": "dropped" if clip.dropped else "kept"} | stages)
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
