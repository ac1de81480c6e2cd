"""Model files give up their arrays; nothing else in them is run, believed or allowed to grow."""

from __future__ import annotations

import io
import os
import pickle
import random
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

from gpavatar.pretrained import restricted_pickle
from gpavatar.pretrained.restricted_pickle import read_arrays
from gpavatar.types import InputError

ARRAYS = {
    "double": np.linspace(-1, 1, 12).reshape(3, 4),
    "single": np.arange(6, dtype=np.float32).reshape(2, 3),
    "column_major": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">f8"),
    "unsigned": np.array([[2**32 - 1, 0]], np.uint32),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3)),
}


def write(path, data: bytes):
    path.write_bytes(data)
    return path


def refused(path, **options) -> str:
    with pytest.raises(InputError) as caught:
        read_arrays(path, **options)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def assert_same(found: dict, expected: dict):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("protocol", range(1, 6))
def test_every_binary_protocol(tmp_path, protocol):
    data = pickle.dumps({**ARRAYS, "style": "lbs", "history": [object()]}, protocol)
    assert_same(read_arrays(write(tmp_path / "model.pkl", data)), ARRAYS)


def test_archives_and_single_files(tmp_path):
    np.savez_compressed(tmp_path / "model.npz", **ARRAYS)
    np.save(tmp_path / "model.npy", np.array(dict(ARRAYS), dtype=object))
    assert_same(read_arrays(tmp_path / "model.npz"), ARRAYS)
    assert_same(read_arrays(tmp_path / "model.npy"), ARRAYS)
    assert read_arrays(tmp_path / "model.npz", ("single", "absent")).keys() == {"single"}


def test_lists_and_numbers(tmp_path):
    data = pickle.dumps({"mask": [3, 1, 2], "count": np.float64(2.5), "names": ["a"], "mixed": [1, "a"]})
    found = read_arrays(write(tmp_path / "model.pkl", data))
    assert_same(found, {"mask": np.array([3, 1, 2]), "count": np.array(2.5)})


def test_dicts_in_dicts(tmp_path):
    data = pickle.dumps({"net": {"conv": {"kernel": np.ones(3)}, "note": "a"}, "scale": np.ones(2)})
    found = read_arrays(write(tmp_path / "model.pkl", data))
    assert_same(found, {"net/conv/kernel": np.ones(3), "scale": np.ones(2)})
    assert read_arrays(tmp_path / "model.pkl", ("net/conv/kernel",)).keys() == {"net/conv/kernel"}


def test_dicts_that_would_not_end_are_refused(tmp_path):
    endless: dict = {}
    endless["again"] = endless
    doubled: dict = {"a": np.ones(1)}
    for _ in range(40):
        doubled = {"a": doubled, "b": doubled}
    long_names: dict = {"a": np.ones(1)}
    for _ in range(20):
        long_names = {"n" * 100: long_names}
    for value in (endless, doubled, long_names):
        assert "is damaged" in refused(write(tmp_path / "model.pkl", pickle.dumps(value)))


def test_a_file_written_by_python_2(tmp_path):
    values = np.array([1.5, -2.5])
    data = (
        b"\x80\x02}U\x01aq\x00cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x10" + values.tobytes() + b"tbs."
    )
    assert_same(read_arrays(write(tmp_path / "model.pkl", data)), {"a": values})


def foreign(monkeypatch, module: str, name: str) -> type:
    """A class that pickles as `module.name`."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    made = type(name, (), {"__module__": module, "__init__": lambda self, **state: self.__dict__.update(state)})
    setattr(sys.modules[module], name, made)
    return made


@pytest.mark.parametrize("protocol", (1, 2, 4))
def test_foreign_classes_need_not_be_installed(tmp_path, monkeypatch, protocol):
    rows = np.array([[0.0, 2, 0, 1], [0, 0, 0, 3]])
    with monkeypatch.context() as patch:
        chumpy = foreign(patch, "chumpy.ch", "Ch")
        select = foreign(patch, "chumpy.reordering", "Select")
        csc = foreign(patch, "scipy.sparse.csc", "csc_matrix")
        csr = foreign(patch, "scipy.sparse._csr", "csr_matrix")
        by_row = csr(_shape=(2, 4), data=np.array([2.0, 1, 3]), indices=np.array([1, 3, 3]), indptr=np.array([0, 2, 3]))
        columns = np.array([0, 0, 1, 1, 3])
        by_column = csc(_shape=(2, 4), data=np.array([2.0, 1, 3]), indices=np.array([0, 0, 1]), indptr=columns)
        content = {
            "chumpy": chumpy(x=rows, _dirty_vars=set()),
            "derived": select(a=chumpy(x=rows)),
            "csr": by_row,
            "csc": by_column,
        }
        data = pickle.dumps(content, protocol)
    for module in ("chumpy", "scipy", "scipy.sparse"):
        monkeypatch.setitem(sys.modules, module, None)
    found = read_arrays(write(tmp_path / "model.pkl", data))
    assert_same(found, {"chumpy": rows, "csr": rows, "csc": rows})


class Exploit:
    """Touches a file when unpickled in the ordinary way."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("wrap", (lambda bad: bad, lambda bad: {"a": bad}, lambda bad: {"a": np.array([bad])}))
def test_no_code_runs(tmp_path, wrap):
    data = pickle.dumps(wrap(Exploit(tmp_path / "touched")))
    pickle.loads(data)
    (tmp_path / "touched").rmdir()

    assert "posix.mkdir" in refused(write(tmp_path / "model.pkl", data))
    np.savez(tmp_path / "model.npz", a=np.array(wrap(Exploit(tmp_path / "touched"))))
    np.save(tmp_path / "model.npy", np.array(wrap(Exploit(tmp_path / "touched"))))
    for name in ("model.npz", "model.npy"):
        assert "posix.mkdir" in refused(tmp_path / name)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "stream",
    (
        b"cos\nsystem\n(S'mkdir touched'\ntR.",
        b"\x80\x02c__builtin__\neval\nU\x14__import__('danger')\x85R.",
        b"\x80\x02cdanger\nanything\n.",
        b"\x80\x02(idanger\nanything\n.",
        b"\x80\x04\x8c\x0bcollections\x8c\x20OrderedDict.__init__.__globals__\x93.",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"\x80\x02cnumpy\nload\nU\x09model.npy\x85R.",
        b"\x80\x02cchumpy.utils\nrun\nU\x06danger\x85Rcdanger\nx\n.",
    ),
)
def test_nothing_outside_the_list_is_looked_up(tmp_path, monkeypatch, stream):
    (tmp_path / "danger.py").write_text("import os; os.mkdir('touched'); anything = 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "refers to" in refused(write(tmp_path / "model.pkl", stream))
    assert "danger" not in sys.modules and not (tmp_path / "touched").exists()


def test_a_file_cannot_change_the_list_for_the_next(tmp_path):
    for name in (b"c_codecs\nencode\n", b"ccollections\nOrderedDict\n", b"cnumpy\ndtype\n", b"cchumpy.ch\nCh\n"):
        for state in (b"}U\x05stateK\x01s", b"N}U\x05stateK\x01s\x86"):
            refused(write(tmp_path / "model.pkl", b"\x80\x02" + name + state + b"b."))
    assert all(getattr(allowed, "state", None) is None for allowed in restricted_pickle.ALLOWED.values())


def test_hostile_names_stay_on_one_line(tmp_path):
    message = refused(write(tmp_path / "model.pkl", b"\x80\x04\x8c\x0c\x1b[31m\nred\nred\x8c\x01a\x93."))
    assert message.isprintable()


def test_truncated_anywhere(tmp_path):
    whole = pickle.dumps(ARRAYS, 2)
    archive = io.BytesIO()
    np.savez(archive, **ARRAYS)
    for data in (whole, archive.getvalue()):
        for end in (0, 1, 2, 3, 10, len(data) // 2, len(data) - 1):
            refused(write(tmp_path / "model.pkl", data[:end]))


def test_what_is_no_model(tmp_path):
    for data in (b"solid cube", b"<html>", b"\x89PNG\r\n", pickle.dumps([1, 2]), pickle.dumps(ARRAYS["double"])):
        refused(write(tmp_path / "model.pkl", data))
    assert "No such file" in refused(tmp_path / "missing.pkl")
    assert "directory" in refused(tmp_path)


def test_sizes_are_bounded(tmp_path, monkeypatch):
    far_memo = b"\x80\x02}r" + (2**24).to_bytes(4, "little") + b"."
    deep = b"\x80\x02}K\x01" + b"\x85" * 10**6 + b"K\x02s."
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    huge = io.BytesIO()
    with zipfile.ZipFile(huge, "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    for data in (far_memo, deep, huge.getvalue()):
        refused(write(tmp_path / "model.pkl", data))

    csr = foreign(monkeypatch, "scipy.sparse.csr", "csr_matrix")
    none = np.zeros(0)
    sparse = csr(_shape=(10, 10**7), data=none, indices=none.astype(int), indptr=np.zeros(11, int))
    refused(write(tmp_path / "model.pkl", pickle.dumps({"a": sparse})))

    monkeypatch.setattr(restricted_pickle, "MAX_MODEL_BYTES", 10_000)
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(10_000))
    assert (tmp_path / "bomb.npz").stat().st_size < 10_000
    refused(tmp_path / "bomb.npz")
    assert "bytes" in refused(write(tmp_path / "model.pkl", pickle.dumps({"a": np.zeros(2000)})))


def test_damage_gives_an_error_or_arrays(tmp_path):
    whole, chance, outcomes = pickle.dumps(ARRAYS, 2), random.Random(0), set()
    for _ in range(300):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            outcomes.add(type(read_arrays(write(tmp_path / "model.pkl", bytes(data)))))
        except InputError as error:
            outcomes.add(type(error))
    assert outcomes == {dict, InputError}


def test_neither_scipy_nor_chumpy_is_imported():
    code = "import sys, gpavatar.pretrained.restricted_pickle; sys.exit(bool({'scipy', 'chumpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
