"""The search of `knn_numba.py`: a list of points against `LANES` places at once, one in each lane of a vector.

numba's compiler makes no vectors of such a loop, so that its code is written here. On processors whose vectors have
fewer lanes the compiler takes several.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 16
_FLOAT, _WORD, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _WORDS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_WORD, LANES)


def kept_places(k: int) -> tuple[int, ...]:
    """Zeros, as many as places the compiled search keeps, at least k: there is one for 4, for 8, for 16 ..."""
    return (0,) * max(4, 1 << (k - 1).bit_length())


def search_lanes_slowly(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, numbers: np.ndarray, first: int, end: int, lanes, squared, found
) -> None:
    """What `search_lanes` does."""
    for lane in range(LANES):
        dx, dy, dz = (place - one[first:end] for place, one in zip(lanes[:, lane], (x, y, z), strict=True))
        distance = (dx * dx + dy * dy) + dz * dz
        order = np.argsort(distance, kind="stable")[: len(found)]
        found[: len(order), lane], squared[: len(order), lane] = numbers[first:end][order], distance[order]


@intrinsic
@no_type_check
def search_lanes(_context, x, y, z, numbers, first, end, lanes, squared, found, places):
    """The nearest to each of `lanes` (axis lane) of the points [first, end) at `x`, `y`, `z`: their d² into `squared`
    (place lane), of their `numbers` those into `found`. Of equally near points the first comes first.

    `places`: `kept_places(k)`. Where there are fewer points than places the last are infinitely far and have no name.
    """
    kept = len(places)

    def generate(context, builder, signature, arguments):
        def array(which):
            return context.make_array(signature.args[which])(context, builder, arguments[which])

        def spread(scalar, vector):
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_WORD, 0))
            return builder.shuffle_vector(one, one, ir.Constant(_WORDS, [0] * LANES))

        def vector_at(which, place, vector):
            return builder.gep(builder.bitcast(array(which).data, vector.as_pointer()), [ir.Constant(_WORD, place)])

        axes, names = [array(axis).data for axis in range(3)], array(3).data
        lanes = [builder.load(vector_at(6, axis, _FLOATS)) for axis in range(3)]
        for lane in lanes:
            lane.align = 4

        before, head = builder.block, builder.append_basic_block("candidate")
        body, done = builder.append_basic_block("insert"), builder.append_basic_block("written")
        builder.branch(head)
        builder.position_at_end(head)
        at = builder.phi(_LONG)
        at.add_incoming(arguments[4], before)
        near = [builder.phi(_FLOATS) for _ in range(kept)]
        who = [builder.phi(_WORDS) for _ in range(kept)]
        for place in range(kept):
            near[place].add_incoming(ir.Constant(_FLOATS, [float("inf")] * LANES), before)
            who[place].add_incoming(ir.Constant(_WORDS, [0] * LANES), before)
        builder.cbranch(builder.icmp_signed("<", at, arguments[5]), body, done)

        builder.position_at_end(body)
        apart = [
            builder.fsub(lane, spread(builder.load(builder.gep(axis, [at])), _FLOATS))
            for lane, axis in zip(lanes, axes, strict=True)
        ]
        dx, dy, dz = (builder.fmul(one, one) for one in apart)
        own = builder.fadd(builder.fadd(dx, dy), dz)
        name = spread(builder.load(builder.gep(names, [at])), _WORDS)
        nearer = [builder.fcmp_ordered("<", own, one) for one in near]
        # In order of distance: what is nearer than the one before moves that one here, else comes here itself.
        for kind, new in ((near, own), (who, name)):
            for place in range(kept):
                moved = new if place == 0 else builder.select(nearer[place - 1], kind[place - 1], new)
                kind[place].add_incoming(builder.select(nearer[place], moved, kind[place]), body)
        at.add_incoming(builder.add(at, ir.Constant(_LONG, 1)), body)
        builder.branch(head)

        builder.position_at_end(done)
        for which, kind, vector in ((7, near, _FLOATS), (8, who, _WORDS)):
            for place in range(kept):
                builder.store(kind[place], vector_at(which, place, vector)).align = 4
        return context.get_dummy_value()

    signature = types.void(x, y, z, numbers, types.int64, types.int64, lanes, squared, found, places)
    return signature, generate
