"""The shipped backbone: its file, its network, and what "auto" comes to."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.backbones.drawnet import STRIDES, Drawnet, fold
from engine.backbones.resolve import SHIPPED, resolve_backbone
from engine.errors import UnknownBackbone, WeightsMismatch, WeightsUnavailable
from engine.features import FeatureExtractor

CPU = torch.device("cpu")
CUDA = torch.device("cuda")  # only named here, never used


@pytest.fixture(scope="module")
def shipped() -> FeatureExtractor:
    return FeatureExtractor(resolve_backbone(SHIPPED), (1, 2, 3), CPU)


def test_file_is_small_and_half_precision():
    weights = resolve_backbone(SHIPPED).weights
    assert weights.stat().st_size <= 6e6
    with safe_open(weights, "pt") as file:
        tensors = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118 (it is no dictionary)
        assert file.metadata()["teacher"].startswith("resnet18 from file resnet18.tv_in1k.safetensors")
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert sum(tensor.numel() for tensor in tensors) <= 3e6


def test_maps_have_the_strides_and_channels_they_say(shipped):
    maps = shipped(torch.zeros(2, 3, 64, 96))
    for stage, values in maps.items():
        stride = STRIDES[stage - 1]
        assert values.shape == (2, shipped.channels[stage], 64 // stride, 96 // stride)


def test_features_are_finite_and_tell_a_scratch_from_none(shipped):
    plain = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 0.1
    scratched = plain.clone()
    scratched[..., 64:67, 20:100] += 2
    change = {
        stage: (shipped(scratched)[stage] - values).norm(dim=1)[0] for stage, values in shipped(plain).items()
    }
    for stage, amount in change.items():
        assert torch.isfinite(amount).all()
        row, far = 64 // STRIDES[stage - 1], 8 // STRIDES[stage - 1]
        assert amount[row].mean() > 3 * amount[far].mean()


def test_later_stages_are_not_kept():
    extractor = FeatureExtractor(resolve_backbone(SHIPPED), (1,), CPU)
    assert len(extractor.net.stages) == 1


def test_a_stage_it_does_not_have_is_refused():
    with pytest.raises(UnknownBackbone, match="no stage 4; it has 1, 2, 3"):
        FeatureExtractor(resolve_backbone(SHIPPED), (4,), CPU)


def test_other_weights_under_its_name_are_refused(tmp_path, tiny_weights):
    file = tmp_path / "drawnet.mine.safetensors"
    shutil.copy(tiny_weights, file)
    with pytest.raises(WeightsMismatch, match="drawnet"):
        FeatureExtractor(resolve_backbone("auto", file), (2,), CPU)


def test_folding_changes_no_map():
    torch.manual_seed(0)
    net = Drawnet(norm=True)
    pictures = torch.randn(4, 3, 64, 64)
    for _ in range(3):
        net(pictures)  # moves the running statistics
    net.eval()
    before = net(pictures)
    fold(net)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())
    for one, other in zip(before, net(pictures), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert net.state_dict().keys() == Drawnet().state_dict().keys()


def test_auto_is_the_shipped_one_on_a_cpu():
    backbone = resolve_backbone("auto")
    assert backbone == resolve_backbone(SHIPPED)
    assert backbone == resolve_backbone("auto", device=CPU)
    assert backbone.text == "drawnet from the product itself, trained on drawn pictures, licence bsd-3-clause"
    assert "SIMPLENET_WEIGHTS" in (backbone.stronger or "")


def test_auto_on_a_gpu_takes_the_papers_backbone_from_the_cache(monkeypatch, tmp_path):
    snapshot = tmp_path / "models--timm--wide_resnet50_2.tv_in1k" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    (snapshot / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    backbone = resolve_backbone("auto", device=CUDA)
    assert backbone.name == "wide_resnet50_2.tv_in1k"
    assert backbone.origin == "hub cache timm/wide_resnet50_2.tv_in1k"
    assert backbone.stronger is None


def test_auto_on_a_gpu_without_them_is_the_shipped_one(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with caplog.at_level("INFO"):
        backbone = resolve_backbone("auto", device=CUDA)
    assert backbone.name == SHIPPED
    assert "no weights of the paper's backbone" in caplog.text


def test_auto_on_a_gpu_is_the_shipped_one_when_the_download_breaks_off(monkeypatch, tmp_path, caplog):
    said = []

    def refuse(*_arguments, **_options):
        raise OSError("no space left on device")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: None)  # the hub answers
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    backbone = resolve_backbone("auto", device=CUDA, on_download=said.append)
    assert backbone.name == SHIPPED
    assert (
        said[0].text == "wide_resnet50_2.tv_in1k from hub timm/wide_resnet50_2.tv_in1k, licence bsd-3-clause"
    )
    assert "no space left" in caplog.records[-1].reason
    with pytest.raises(WeightsUnavailable, match="no space left"):
        resolve_backbone("wide_resnet50_2.tv_in1k")


def test_missing_weights_of_another_backbone_name_the_shipped_one(tmp_path):
    with pytest.raises(WeightsUnavailable, match="or choose drawnet, which ships with the product"):
        resolve_backbone("resnet18", tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("name", "near"), [("Drawnet", "drawnet"), ("resnte18", "resnet18"), ("resnet18.no_such", "resnet18")]
)
def test_unknown_name_is_answered_with_the_nearest(name, near):
    with pytest.raises(UnknownBackbone, match=rf"Near: .*\b{near}\b"):
        resolve_backbone(name)


def test_file_that_was_not_copied_to_its_end_is_refused_with_its_size(tmp_path):
    cut = tmp_path / "drawnet.cut.safetensors"
    cut.write_bytes(resolve_backbone(SHIPPED).weights.read_bytes()[:5000])
    with pytest.raises(WeightsUnavailable, match=r"5,000 bytes\) can't be read .*Copy it again"):
        resolve_backbone("auto", cut)


def test_file_whose_name_says_no_backbone_is_asked_for_one(tmp_path):
    mine = tmp_path / "mine.safetensors"
    shutil.copy(resolve_backbone(SHIPPED).weights, mine)
    with pytest.raises(UnknownBackbone, match=r"'mine' \(up to its first dot\).*--backbone NAME"):
        resolve_backbone("auto", mine)
    assert resolve_backbone(SHIPPED, mine).weights == mine


def test_licence_that_a_file_states_is_its_own(tmp_path):
    file = tmp_path / "drawnet.mine.safetensors"
    save_file(load_file(resolve_backbone(SHIPPED).weights), file, metadata={"licence": "mit"})
    assert resolve_backbone("auto", file).licence == "mit"
