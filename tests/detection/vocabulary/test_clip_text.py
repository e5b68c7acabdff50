"""CLIP's text tower from a file speaks as open_clip's own, and files that lack it are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from detection.vocabulary import clip_text
from detection.vocabulary.clip_text import open_clip_text
from detection.vocabulary.speaking import vectors_of
from detection.vocabulary.table import Vocabulary
from detection.vocabulary.text_models import read_templates, speak
from shared.errors import DataError, UsageError, WeightsError
from tests.detection.vocabulary.of_clip import small_clip

pytest.importorskip("open_clip")
NAMES = ["zebra", "traffic_light", "Moniter/TV", "bow_(weapon)"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "small.pt"
    torch.save(small_clip().state_dict(), path)
    return path


@torch.inference_mode()
def test_a_vector_is_the_mean_of_81_sentences_of_open_clips_own_text_tower(saved: Path) -> None:
    import open_clip

    made = vectors_of("clip", NAMES, weights=saved, source_ids=(3, 4, 5, 6))
    told = ["zebra", "traffic light", "Moniter or TV", "bow (weapon)"]
    templates = [lambda name: f"{name}.", *open_clip.OPENAI_IMAGENET_TEMPLATES]
    net = small_clip()
    expected = torch.stack([net.encode_text(open_clip.tokenize([t(name) for t in templates])).mean(0) for name in told])
    assert torch.allclose(made.vectors, expected, atol=1e-5)
    assert made.spoken == tuple(told) and made.names == tuple(NAMES) and made.source_ids == (3, 4, 5, 6)
    assert len(made.templates) == 81 and made.templates[0] == "{}." and len(made.model_sha256) == 64
    assert not torch.allclose(made.vectors.norm(dim=1), torch.ones(4), atol=0.05)  # as the model gives them


def test_one_model_is_one_identity_in_every_file_and_another_is_another(saved: Path, tmp_path: Path) -> None:
    net = small_clip()
    texts = {name: value.half().contiguous() for name, value in net.state_dict().items() if "visual" not in name}
    save_file(texts, tmp_path / "text.safetensors")
    torch.save({"state_dict": {f"module.{n}": t for n, t in net.state_dict().items()}, "epoch": 3}, tmp_path / "ddp.pt")
    other = small_clip(seed=1)
    torch.save({f"lang_encoder.{n}": t for n, t in other.state_dict().items()}, tmp_path / "other.pth")
    identities = [open_clip_text(path).identity for path in (
        saved, tmp_path / "ddp.pt", tmp_path / "text.safetensors", tmp_path / "other.pth")]  # fmt: skip
    digests = [identity.rpartition("-")[2] for identity in identities]
    assert identities[0] == identities[1] and identities[0].startswith("clip:RN-")
    assert identities[2].startswith("clip:text-") and digests[2] == digests[0] != digests[3]


def test_a_tower_that_gives_the_vectors_of_the_program_is_that_model(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["zebra", "person", "couch", "cow"]
    own = speak(open_clip_text(saved), names)
    table = Vocabulary(own.names, own.vectors.half(), "clip:RN50")
    monkeypatch.setattr(clip_text, "shipped", lambda model: table)
    assert open_clip_text(saved).identity == "clip:RN50" and open_clip_text(saved).license == "MIT"
    assert vectors_of("clip:RN50", names, weights=saved).model == "clip:RN50"
    torch.save(small_clip(seed=1).state_dict(), tmp_path / "other.pt")
    assert open_clip_text(tmp_path / "other.pt").identity.startswith("clip:RN-")


@torch.inference_mode()
def test_plain_gelu_is_told(tmp_path: Path) -> None:
    import open_clip

    net = small_clip(gelu=True)
    torch.save(net.state_dict(), tmp_path / "gelu.pt")
    sentence = ["a photo of a zebra."]
    expected = net.encode_text(open_clip.tokenize(sentence))
    assert torch.allclose(open_clip_text(tmp_path / "gelu.pt", gelu=True).encode(sentence), expected, atol=1e-5)


def test_sentences_of_ones_own(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "sentences.txt"
    path.write_text("a drawing of a {}.\n\n{}\n")
    model = open_clip_text(saved)
    made = speak(model, ["zebra"], templates=read_templates(path))
    assert made.templates == ("a drawing of a {}.", "{}")
    assert torch.allclose(made.vectors[0], model.encode(["a drawing of a zebra.", "zebra"]).mean(0), atol=1e-5)
    for text, says in (("", "it is empty"), ("a zebra", "'a zebra' has no {}")):
        path.write_text(text)
        with pytest.raises(DataError, match=says):
            read_templates(path)


def test_another_model_than_the_one_that_is_asked_for_is_refused(saved: Path) -> None:
    with pytest.raises(WeightsError, match=r"small\.pt is clip:RN-\w{8}, not clip:RN50; give the weights of clip:RN50"):
        vectors_of("clip:RN50", NAMES, weights=saved)
    with pytest.raises(UsageError, match="needs the file of its weights, and nothing is fetched"):
        vectors_of("clip", NAMES)
    with pytest.raises(UsageError, match="no text model 'bert'"):
        vectors_of("bert", NAMES)


def test_files_without_a_text_tower_are_refused(tmp_path: Path) -> None:
    state = small_clip().state_dict()
    torch.save({name: value for name, value in state.items() if name.startswith("visual.")}, tmp_path / "image.pt")
    torch.save({name: value for name, value in state.items() if name != "text_projection"}, tmp_path / "part.pt")
    torch.save({**state, "transformer.resblocks.0.extra": torch.ones(1)}, tmp_path / "more.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name, says in (
        ("image", "no text tower of CLIP"),
        ("part", "lacks text_projection"),
        ("more", "another text tower than CLIP's"),
        ("text", "neither a complete"),
        ("absent", "cannot be read"),
    ):
        with pytest.raises(WeightsError, match=says):
            open_clip_text(tmp_path / f"{name}.pt")


def test_a_torchscript_archive_is_not_run_and_the_line_that_saves_its_tensors_is_given(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "RN50.pt"))
    with pytest.raises(WeightsError, match=r"not executed; save its state_dict first.*torch\.jit\.load\("):
        open_clip_text(tmp_path / "RN50.pt")


def test_without_the_package_it_says_how_to_get_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"pip install 'chordate\[text\]'"):
        open_clip_text(saved)
