"""TFRecords give the photographs that were put in, or are refused with the file and the byte; other readers agree."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pretrain.cli import main
from pretrain.data.shard_index import members
from pretrain.data.shards import ShardSet, find_shards
from pretrain.data.tfrecord import crc32c, example, masked, photograph, read_record, record_places
from pretrain.packing.pack import pack
from shared.errors import DataError, UsageError

oracle = pytest.importorskip("crc32c", reason="needs the package crc32c")


# -- a writer, for the tests only -------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def span(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(values: list) -> bytes:
    if values and isinstance(values[0], int):
        return span(3, span(1, b"".join(map(varint, values))))
    if values and isinstance(values[0], float):
        return span(2, span(1, struct.pack(f"<{len(values)}f", *values)))
    return span(1, b"".join(span(1, value) for value in values))


def written(**fields: list) -> bytes:
    """A tf.train.Example; `image__encoded` stands for `image/encoded`."""
    entries = [(name.replace("__", "/").encode(), feature(values)) for name, values in fields.items()]
    return span(1, b"".join(span(1, span(1, name) + span(2, content)) for name, content in entries))


def crc(data: bytes) -> bytes:
    value = oracle.crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def write_records(path: Path, payloads: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lengths = [struct.pack("<Q", len(payload)) for payload in payloads]
    path.write_bytes(b"".join(n + crc(n) + p + crc(p) for n, p in zip(lengths, payloads, strict=True)))
    return path


def picture(n: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9 + n % 5, 7), (n % 256, 90, 20)).save(buffer, kind)
    return buffer.getvalue()


def photo(n: int, label: int = 1, **more: list | None) -> bytes:
    fields = {
        "image__encoded": [picture(n)],
        "image__class__label": [label],
        "image__class__synset": [f"n{label:08d}".encode()],
        "image__filename": [f"n{label:08d}_{n}.JPEG".encode()],
        "image__height": [7],
        "image__colorspace": [b"RGB"],
        "image__object__bbox__ymin": [0.25, 0.5],
    }
    return written(**{name: values for name, values in (fields | more).items() if values is not None})


@pytest.fixture
def records(tmp_path) -> Path:
    """Seven training records of three classes in two files, two of validation in one."""
    labels = [3, 1, 2, 3, 1, 2, 3]
    payloads = [photo(n, label) for n, label in enumerate(labels)]
    write_records(tmp_path / "in" / "train-00000-of-00002", payloads[:4])
    write_records(tmp_path / "in" / "train-00001-of-00002", payloads[4:])
    write_records(tmp_path / "in" / "validation-00000-of-00001", [photo(50, 2), photo(51, 1)])
    return tmp_path / "in"


def read(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return [bytes(read_record(file.fileno(), path, *place)) for place in record_places(path)]


# -- checksums --------------------------------------------------------------------------------------------------------


def test_the_checksum_is_crc32c():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of its catalogue entry
    assert crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"\xff" * 32) == 0x62A8AB43  # RFC 3720, B.4
    assert crc32c(b"") == 0 and masked(0) == 0xA282EAD8


@given(st.binary(max_size=3000))
def test_the_checksum_is_that_of_another_implementation(data):
    assert crc32c(data) == oracle.crc32c(data) == crc32c(memoryview(data))


@pytest.mark.parametrize("border", [64, 256, 256 * 64, 256 * 64 * 64])
def test_the_checksum_holds_where_its_tables_change(border):
    data = bytes(k * k % 251 for k in range(border + 300))
    for size in (border - 1, border, border + 1, border + 257):
        assert crc32c(data[:size]) == oracle.crc32c(data[:size])


# -- records ----------------------------------------------------------------------------------------------------------


def test_an_installed_reader_reads_what_the_writer_of_these_tests_writes(tmp_path):
    theirs = pytest.importorskip("tfrecord", reason="needs the package tfrecord")
    path = write_records(tmp_path / "a.tfrecord", [photo(n, n + 1) for n in range(3)])
    kinds = {"image/encoded": "byte", "image/class/label": "int", "image/class/synset": "byte"}
    for n, found in enumerate(theirs.tfrecord_loader(str(path), None, kinds)):
        ours = photograph(read(path)[n], path, 0)
        assert bytes(found["image/encoded"]) == picture(n) == ours.data
        assert int(found["image/class/label"][0]) == n + 1 == ours.label + 1
        assert bytes(found["image/class/synset"]).decode() == ours.notes["synset"] == f"n{n + 1:08d}"
    assert n == 2


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_payloads_come_back(tmp_path_factory, payloads):
    path = write_records(tmp_path_factory.mktemp("x") / "a.tfrecord", payloads)
    assert read(path) == payloads


def test_any_flipped_byte_is_refused_with_file_and_byte(tmp_path):
    whole = write_records(tmp_path / "a", [b"first payload", b"", b"x" * 70]).read_bytes()
    damaged = tmp_path / "train-00000-of-00001"
    begins = [at for at, _ in record_places(tmp_path / "a")]
    for byte in range(len(whole)):
        data = bytearray(whole)
        data[byte] ^= 1 << byte % 8
        damaged.write_bytes(data)
        with pytest.raises(DataError, match="checksum|cut") as refusal:
            read(damaged)
        begin = max(at for at in begins if at <= byte)
        assert str(damaged) in str(refusal.value)
        assert f"byte {begin}:" in str(refusal.value) or f"byte {begin + 12}:" in str(refusal.value)


def test_a_file_that_is_cut_is_refused(tmp_path):
    whole = write_records(tmp_path / "a", [b"first", b"second"]).read_bytes()
    begins = [at for at, _ in record_places(tmp_path / "a")]
    for size in set(range(len(whole))) - set(begins):  # at those, it is a shorter file of whole records
        (tmp_path / "b").write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"b is damaged at byte {size}: it ends inside the record"):
            read(tmp_path / "b")


def test_a_compressed_file_is_refused_as_such(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(DataError, match="decompress it first"):
        record_places(tmp_path / "a.tfrecord")


# -- examples ---------------------------------------------------------------------------------------------------------

FIELDS = st.dictionaries(
    st.text(max_size=12),
    st.one_of(
        st.lists(st.binary(max_size=40), max_size=4),
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
        st.lists(st.floats(width=32, allow_nan=False), max_size=4),
    ),
    max_size=5,
)


@given(FIELDS)
def test_an_example_is_decoded_as_by_protobuf(fields):
    pb = pytest.importorskip("tfrecord.example_pb2", reason="needs the package tfrecord")
    theirs = pb.Example()
    for name, values in fields.items():
        one = theirs.features.feature[name]
        kind = {bytes: one.bytes_list, int: one.int64_list, float: one.float_list}[type(values[0]) if values else bytes]
        kind.value.extend(values)
        kind.SetInParent()
    assert example(theirs.SerializeToString()) == fields


def test_numbers_may_stand_one_by_one_and_unknown_fields_are_passed_over():
    one_by_one = span(3, b"\x08" + varint(5) + b"\x08" + varint(-1))
    floats = span(2, b"\x0d" + struct.pack("<f", 1.5))
    unknown = b"\x30\x07" + b"\x39" + bytes(8) + b"\x45" + bytes(4) + span(9, b"?")
    entries = [span(1, b"n") + span(2, one_by_one + unknown), unknown + span(1, b"f") + span(2, floats)]
    payload = unknown + span(1, b"".join(span(1, entry) for entry in entries) + unknown)
    assert example(payload) == {"n": [5, -1], "f": [1.5]}


@given(st.data())
def test_what_is_no_example_is_refused_and_nothing_else_happens(data):
    payload = bytearray(photo(3))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    for damaged in (bytes(payload[: data.draw(st.integers(0, len(payload)))]), data.draw(st.binary(max_size=80))):
        try:
            photograph(damaged, Path("a"), 24)
        except DataError as error:
            assert "byte 24 of a" in str(error) or "a is damaged at byte 36" in str(error)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            {"image__encoded": None},
            "exactly one 'image/encoded' .it has image/class/label, .*pack reads records with ImageNet's",
        ),
        ({"image__class__label": None}, "exactly one 'image/class/label'"),
        ({"image__class__label": [1, 2]}, "exactly one 'image/class/label'"),
        ({"image__class__label": [b"cat"]}, "exactly one 'image/class/label'"),
        ({"image__class__label": [0]}, "class 0; classes of such records count from 1"),
        ({"image__class__label": [-5]}, "class -5"),
    ],
)
def test_a_record_that_is_no_labeled_photograph_is_refused(change, sentence):
    with pytest.raises(DataError, match=f"record at byte 7 of some/file.*{sentence}"):
        photograph(photo(1, **change), Path("some/file"), 7)


# -- packing ----------------------------------------------------------------------------------------------------------


def contents(out: Path, split: str) -> dict[str, tuple[bytes, int]]:
    data = ShardSet(find_shards(out, split), lambda image, rng: image, verify=True)
    return {data.name(n).partition(":")[2]: (bytes(data.read(n)), int(data.labels[n])) for n in range(len(data))}


def member(shard: Path, name: str) -> bytes:
    found = next(m for m in members(shard) if m.name == name)
    return shard.read_bytes()[found.offset_data : found.offset_data + found.size]


def test_a_folder_of_tfrecords_becomes_train_and_val_with_synsets_for_classes(records, tmp_path):
    packed = pack(records, tmp_path / "out", shard_size=4)
    assert packed.samples == {"train": 7, "val": 2} and packed.shards == 3 and packed.skipped == []
    assert (tmp_path / "out" / "classes.txt").read_text() == "n00000001\nn00000002\nn00000003\n"
    train, val = contents(tmp_path / "out", "train"), contents(tmp_path / "out", "val")
    assert train["train-00000-of-00002/000002"] == (picture(2), 1)
    assert [train[key] for key in train] == [(picture(n), label) for n, label in enumerate([2, 0, 1, 2, 0, 1, 2])]
    assert val["validation-00000-of-00001/000001"] == (picture(51), 0)
    about = member(tmp_path / "out" / "train-000001.tar", "train-00001-of-00002/000000.json")
    assert json.loads(about) == {"filename": "n00000001_4.JPEG", "synset": "n00000001"}
    wds = pytest.importorskip("webdataset")
    theirs = list(wds.WebDataset([str(tmp_path / "out" / "train-000000.tar")], shardshuffle=False))
    assert [(s["jpg"], int(s["cls"])) for s in theirs] == [(picture(n), k) for n, k in enumerate([2, 0, 1, 2])]


def test_a_glob_one_file_and_split_folders_are_understood(records, tmp_path):
    assert pack(f"{records}/train-*", tmp_path / "a").samples == {"train": 7}
    assert pack(records / "train-00001-of-00002", tmp_path / "b").samples == {"train": 3}
    assert pack(records / "validation-00000-of-00001", tmp_path / "c").samples == {"val": 2}
    for split in ("train", "validation"):
        (tmp_path / "deep" / split).mkdir(parents=True)
        for path in records.glob(f"{split}-*"):
            path.rename(tmp_path / "deep" / split / path.name.replace(split, "x"))
    assert pack(tmp_path / "deep", tmp_path / "d").samples == {"train": 7, "val": 2}


def test_a_share_for_val_is_taken_from_train_only_where_there_is_no_val(records, tmp_path):
    with pytest.raises(UsageError, match="has a val split"):
        pack(records, tmp_path / "out", val_share=0.5)
    packed = pack(f"{records}/train-*", tmp_path / "out", val_share=0.5)
    assert packed.samples["train"] + packed.samples["val"] == 7
    assert not contents(tmp_path / "out", "train").keys() & contents(tmp_path / "out", "val").keys()


def test_missing_files_are_missed(records, tmp_path):
    (records / "train-00001-of-00002").rename(records / "other")
    with pytest.raises(DataError, match=r"1 of the 2 files .*train-\*-of-00002 are missing, the first is number 1;"):
        pack(records, tmp_path / "out")


def test_a_wrong_checksum_ends_the_command_with_code_3_and_names_file_and_byte(records, tmp_path, capsys):
    path = records / "train-00001-of-00002"
    at, length = record_places(path)[1]
    data = bytearray(path.read_bytes())
    data[at + 12 + length // 2] ^= 4
    path.write_bytes(data)
    assert main(["pack", str(records), str(tmp_path / "out"), "--jobs", "1"]) == 3
    said = capsys.readouterr().err
    assert f"TFRecord {path} is damaged at byte {at + 12}: the checksum of a record is wrong; download" in said
    assert said.count("\n") == 1 and sorted(os.listdir(tmp_path)) == ["in"]


def test_finished_shards_outlive_a_damaged_record_and_a_mended_file_goes_on_from_them(records, tmp_path):
    pack(records, tmp_path / "straight", shard_size=2)
    path = records / "validation-00000-of-00001"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match="damaged"):
        pack(records, tmp_path / "out", shard_size=2)
    path.write_bytes(whole)
    assert pack(records, tmp_path / "out", shard_size=2).kept == 4
    for made in (tmp_path / "straight").iterdir():
        assert made.read_bytes() == (tmp_path / "out" / made.name).read_bytes()


def test_other_formats_inside_records_keep_their_name_or_are_left_out(tmp_path):
    payloads = [photo(0), photo(1, image__encoded=[picture(1, "PNG")]), photo(2, image__encoded=[picture(2, "GIF")])]
    path = write_records(tmp_path / "a.tfrecord", [*payloads, photo(3, image__encoded=[picture(3)[:100]])])
    packed = pack(path, tmp_path / "out")
    assert packed.samples == {"train": 2}
    assert [name for name, _ in packed.skipped] == ["record 2 of a.tfrecord", "record 3 of a.tfrecord"]
    assert member(tmp_path / "out" / "train-000000.tar", "a.tfrecord/000001.png") == picture(1, "PNG")


def test_two_names_for_one_class_are_refused_and_classes_without_a_name_get_one(tmp_path):
    clash = [photo(0, 1), photo(1, 1, image__class__synset=[b"n9"])]
    for size in (1, 10):  # in two shards, in one
        with pytest.raises(DataError, match="class 1 is 'n00000001' in one record and 'n9' in another"):
            pack(write_records(tmp_path / "a.tfrecord", clash), tmp_path / f"out{size}", shard_size=size)
    path = write_records(tmp_path / "b.tfrecord", [photo(0, 4), photo(1, 2, image__class__synset=None)])
    assert pack(path, tmp_path / "named").classes == ["class-0", "class-1", "class-2", "n00000004"]


def test_training_on_tfrecords_as_they_are_is_answered_with_pack(records):
    with pytest.raises(DataError, match="contains TFRecords: pack it first with `pretrain pack"):
        find_shards(records, "train")
