"""Stage pack: the clips that are kept -> shards, in the order of their names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from data_prep.clips import Tools
from data_prep.manifest import ClipRecord, SourceRecord, Workplace, output_errors, read_record, to_json, write_text
from data_prep.settings import PrepConfig
from gpavatar.data.shards import HeadInfo, PackedClip, ShardSet, ShardWriter
from gpavatar.data.tar_stream import tar_block

INDEX = "shards.json"


def pack(records: Sequence[ClipRecord], place: Workplace, config: PrepConfig) -> None:
    """Write the set of all clips that were not dropped; nothing is done where it is there already.

    The bytes depend on the clips alone, so packing is done again as a whole when it was interrupted.
    """
    kept = [record for record in records if not record.dropped]
    stamp, content = place.out / "work" / "packed.sha256", hashlib.sha256()
    for record in kept:
        content.update(to_json(record).encode())
    if (place.out / INDEX).exists() and stamp.exists() and stamp.read_text() == content.hexdigest():
        return
    (place.out / INDEX).unlink(missing_ok=True)
    if not kept:
        return
    head = HeadInfo.of(Tools.of_process().head)
    with output_errors(), ShardWriter(place.out, head, config.size_px, config.encoding, overwrite=True) as writer:
        for record in kept:
            writer.add_packed(PackedClip.load(place.packed_file(record.clip)))
    write_text(stamp, content.hexdigest())


def records_of(names: Sequence[str], place: Workplace) -> tuple[list[SourceRecord], list[ClipRecord]]:
    """What is known of these sources and their clips, in the order of their names."""
    sources = [read_record(place.source_file(name), SourceRecord) for name in sorted(names)]
    clips = [read_record(place.clip_file(clip), ClipRecord) for source in sources for clip in source.clips]
    return sources, clips


def clips_of_set(root: Path) -> list[PackedClip]:
    """The clips of a finished set, as they are: for making one set of several."""
    shards = ShardSet.open(root)
    clips = []
    for number, info in enumerate(shards.index.clips):
        rows = (shards.table.clip == number).nonzero()[:, 0]
        blocks = [tar_block(raw.key, raw.members) for raw in (shards.raw(int(row)) for row in rows)]
        table = shards.table[rows]
        table = type(table)(**{**vars(table), "clip": table.clip * 0, "offset": table.offset - table.offset[0]})
        clips.append(PackedClip(info, shards.index.head, shards.index.size_px, b"".join(blocks), table))
    return clips
