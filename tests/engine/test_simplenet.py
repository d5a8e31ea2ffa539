import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.config import SimpleNetConfig
from engine.errors import ShapeMismatch
from engine.simplenet import SimpleNet, anomalous_features, cross_entropy_loss, truncated_l1_loss
from engine.training import make_optimizers, training_step

Golden = dict[str, np.ndarray]
NAMES = {  # the published code's names of what we call otherwise
    "adaptor.0.weight": "adaptor/layers.0fc.weight",
    "adaptor.0.bias": "adaptor/layers.0fc.bias",
    "discriminator.hidden.weight": "discriminator/body.block1.0.weight",
    "discriminator.hidden.bias": "discriminator/body.block1.0.bias",
    "discriminator.norm.weight": "discriminator/body.block1.1.weight",
    "discriminator.norm.bias": "discriminator/body.block1.1.bias",
    "discriminator.norm.running_mean": "discriminator/body.block1.1.running_mean",
    "discriminator.norm.running_var": "discriminator/body.block1.1.running_var",
    "discriminator.norm.num_batches_tracked": "discriminator/body.block1.1.num_batches_tracked",
    "discriminator.tail": "discriminator/tail.weight",
}


def published_model(golden: Golden, moment: str) -> SimpleNet:
    width, dim = golden["step/before/discriminator/body.block1.0.weight"].shape
    # The published learning rates; ours are higher and fall.
    config = SimpleNetConfig(
        members=1, discriminator_width=width, adaptor_lr=1e-4, discriminator_lr=2e-4, final_lr=1.0
    )
    model = SimpleNet(config, dim)
    state = {
        ours: torch.from_numpy(np.array(golden[f"step/{moment}/{theirs}"])) for ours, theirs in NAMES.items()
    }
    # Linear layers have the member in front; batch norm has members side by side.
    stacked = {
        name: values if ".norm." in name or name.endswith("tail") else values[None]
        for name, values in state.items()
    }
    model.load_state_dict(stacked, strict=True)
    return model


def test_three_training_steps_match_published_code(golden: Golden) -> None:
    model = published_model(golden, "before")
    features, noise = (torch.from_numpy(golden[f"step/{name}"]) for name in ("features", "noise"))
    optimizers = make_optimizers(model)
    losses = [training_step(model, optimizers, features[None], noise[None]).item() for _ in range(3)]
    np.testing.assert_allclose(losses, golden["step/losses"], rtol=1e-6)
    expected = published_model(golden, "after3").state_dict()
    for name, values in model.state_dict().items():
        # A hundredth of a step. Batch norm takes away whatever a bias before it adds, so such a bias has a gradient of
        # rounding errors only, whose sign Adam turns into whole steps; the running mean follows it.
        free = name.removeprefix("") in (
            "adaptor.0.bias",
            "discriminator.hidden.bias",
            "discriminator.norm.running_mean",
        )
        tolerance = 2 * 3 * model.config.discriminator_lr if free else 2e-6
        torch.testing.assert_close(
            values, expected[name], rtol=1e-5, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    scores = model.patch_scores(features).numpy()
    np.testing.assert_allclose(scores, golden["step/eval_scores_after3"][:, 0], atol=5e-3)


@pytest.mark.parametrize(
    ("moment", "scores"), [("before", "eval_scores_before"), ("after3", "eval_scores_after3")]
)
def test_scores_match_published_code(golden: Golden, moment: str, scores: str) -> None:
    model = published_model(golden, moment)
    features = torch.from_numpy(golden["step/features"])
    np.testing.assert_allclose(
        model.patch_scores(features).numpy(), golden[f"step/{scores}"][:, 0], rtol=1e-5, atol=1e-6
    )


def layer_by_layer(model: SimpleNet, features: Tensor) -> Tensor:
    """The slow path: adaptor, then discriminator, one layer after the other, then the mean of the members."""
    model.eval()
    with torch.no_grad():
        outputs = model.discriminator(model.adaptor(features.expand(model.config.members, -1, -1)))
    return -outputs.mean(dim=0)


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_fused_head_equals_its_layers(depth: int, make_config: Callable[..., SimpleNetConfig]) -> None:
    model = SimpleNet(make_config(adaptor_depth=depth), 12)
    generator = torch.Generator().manual_seed(0)
    optimizers = make_optimizers(model)
    for _ in range(5):  # so that batch norm's statistics and parameters are no longer those of the start
        features = torch.randn(2, 64, 12, generator=generator) * 3 + 1
        training_step(model, optimizers, features, torch.randn(2, 64, 12, generator=generator))
    torch.testing.assert_close(
        model.patch_scores(features),
        layer_by_layer(model, features.flatten(0, 1)).reshape(2, 64),
        rtol=1e-4,
        atol=1e-5,
    )


def member_alone(together: SimpleNet, index: int) -> SimpleNet:
    """A SimpleNet of one member, equal to one of several."""
    config = dataclasses.replace(together.config, members=1)
    alone = SimpleNet(config, together.feature_dim)
    width = config.discriminator_width
    for name, values in alone.state_dict().items():
        theirs = together.state_dict()[name]
        if ".norm." in name and theirs.ndim:
            values.copy_(theirs[index * width : (index + 1) * width])
        else:
            values.copy_(theirs if not theirs.ndim else theirs[index : index + 1])
    return alone


def test_members_train_as_each_would_alone(make_config: Callable[..., SimpleNetConfig]) -> None:
    """Two members on their own patches end where two single models end."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 64, 12, generator=generator)
    noise = torch.randn(2, 64, 12, generator=generator) * 0.1
    together = SimpleNet(make_config(members=2), 12)
    alone = [member_alone(together, index) for index in range(2)]
    optimizers = make_optimizers(together)
    apart = [make_optimizers(model) for model in alone]
    for _ in range(3):
        mean = training_step(together, optimizers, features, noise)
        own = [
            training_step(alone[index], apart[index], features[index][None], noise[index][None])
            for index in range(2)
        ]
        torch.testing.assert_close(mean, torch.stack(own).mean())
    mean_scores = torch.stack([model.patch_scores(features[0]) for model in alone]).mean(dim=0)
    torch.testing.assert_close(together.patch_scores(features[0]), mean_scores, rtol=1e-3, atol=1e-3)


def test_members_start_differently(make_config: Callable[..., SimpleNetConfig]) -> None:
    model = SimpleNet(make_config(members=2), 12)
    for values in (model.adaptor[0].weight, model.discriminator.hidden.weight, model.discriminator.tail):
        assert not torch.equal(values[0], values[1])  # type: ignore[index]


def test_weights_start_as_published(make_config: Callable[..., SimpleNetConfig]) -> None:
    model = SimpleNet(make_config(members=4, discriminator_width=100), 300)
    deviations = {
        model.adaptor[0].weight: (2 / 600) ** 0.5,
        model.discriminator.hidden.weight: (2 / 400) ** 0.5,
        model.discriminator.tail: (2 / 101) ** 0.5,
    }
    for values, deviation in deviations.items():
        assert values.std().item() == pytest.approx(deviation, rel=0.1)  # type: ignore[operator]


def test_patch_scores_keep_leading_dimensions(make_config: Callable[..., SimpleNetConfig]) -> None:
    model = SimpleNet(make_config(), 12)
    features = torch.randn(2, 3, 4, 12)
    scores = model.patch_scores(features)
    assert scores.shape == (2, 3, 4)
    torch.testing.assert_close(scores[1, 2, 3], model.patch_scores(features[1, 2, 3][None])[0])


def test_scores_in_parts_equal_scores_at_once(
    make_config: Callable[..., SimpleNetConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SimpleNet(make_config(), 12)
    features = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    at_once = model.patch_scores(features)
    monkeypatch.setattr("engine.simplenet.ROWS", 7)
    torch.testing.assert_close(model.patch_scores(features), at_once)
    assert model.patch_scores(features[:0]).shape == (0,)


def test_bf16_head_stays_close_and_scores_in_fp32(make_config: Callable[..., SimpleNetConfig]) -> None:
    model = SimpleNet(make_config(), 12)
    features = torch.randn(500, 12, generator=torch.Generator().manual_seed(0))
    exact, rounded = model.fused()(features), model.fused(torch.bfloat16)(features)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() < 0.02 * exact.std()


def test_fused_head_keeps_its_scores_when_the_model_trains_on(
    make_config: Callable[..., SimpleNetConfig],
) -> None:
    model = SimpleNet(make_config(), 12)
    features = torch.randn(2, 64, 12, generator=torch.Generator().manual_seed(0))
    head = model.fused()
    before = head(features)
    training_step(model, make_optimizers(model), features, torch.randn(2, 64, 12))
    assert torch.equal(head(features), before)
    assert not torch.equal(model.patch_scores(features), before)


def test_features_of_another_length_are_refused(make_config: Callable[..., SimpleNetConfig]) -> None:
    with pytest.raises(ShapeMismatch, match="length 11; this model takes 12"):
        SimpleNet(make_config(), 12).patch_scores(torch.zeros(5, 11))


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone(
    make_config: Callable[..., SimpleNetConfig],
) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (SimpleNet(make_config(seed=seed), 12).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["adaptor.0.weight"], other["adaptor.0.weight"])


def test_loss_counts_only_what_is_within_the_margin() -> None:
    normal = torch.tensor([2.0, 0.5, 0.0, -1.0])
    anomalous = torch.tensor([-2.0, -0.5, 0.0, 1.0])
    assert truncated_l1_loss(normal, anomalous, 0.5).item() == pytest.approx((0 + 0 + 0.5 + 1.5) / 4 * 2)


def test_noise_is_added_to_adapted_features() -> None:
    adapted, noise = torch.ones(2, 3), torch.full((2, 3), 0.5)
    assert torch.equal(anomalous_features(adapted, noise), torch.full((2, 3), 1.5))


@pytest.mark.parametrize("adaptor_activation", ["none", "leaky_relu"])
@pytest.mark.parametrize("adaptor_residual", [False, True])
@pytest.mark.parametrize(("adaptor_depth", "discriminator_depth"), [(0, 1), (1, 2), (2, 1), (2, 3)])
def test_fused_head_equals_its_layers_whatever_the_knobs(
    make_config: Callable[..., SimpleNetConfig],
    adaptor_activation: str,
    adaptor_residual: bool,
    adaptor_depth: int,
    discriminator_depth: int,
) -> None:
    config = make_config(
        adaptor_activation=adaptor_activation,
        adaptor_residual=adaptor_residual,
        adaptor_depth=adaptor_depth,
        discriminator_depth=discriminator_depth,
    )
    model = SimpleNet(config, 12)
    generator = torch.Generator().manual_seed(0)
    optimizers = make_optimizers(model)
    for _ in range(5):
        features = torch.randn(2, 64, 12, generator=generator) * 3 + 1
        training_step(model, optimizers, features, torch.randn(2, 64, 12, generator=generator))
    torch.testing.assert_close(
        model.patch_scores(features),
        layer_by_layer(model, features.flatten(0, 1)).reshape(2, 64),
        rtol=1e-4,
        atol=1e-5,
    )


def test_residual_adds_the_features(make_config: Callable[..., SimpleNetConfig]) -> None:
    plain = SimpleNet(make_config(adaptor_depth=2), 6)
    residual = SimpleNet(make_config(adaptor_depth=2, adaptor_residual=True), 6)
    features = torch.randn(2, 5, 6)
    torch.testing.assert_close(residual.adaptor(features), plain.adaptor(features) + features)


def test_scaled_noise_is_in_units_of_each_channels_deviation() -> None:
    adapted = torch.randn(2, 4000, 3) * torch.tensor([0.1, 1.0, 10.0])
    added = anomalous_features(adapted, torch.full_like(adapted, 0.5), kind="scaled") - adapted
    torch.testing.assert_close(added[0, 0], 0.5 * adapted[0].std(dim=0))
    torch.testing.assert_close(added[1, 7], 0.5 * adapted[1].std(dim=0), rtol=1e-3, atol=1e-4)


def test_differences_lie_where_patches_differ_and_have_the_deviation_wanted() -> None:
    directions = torch.randn(2, 3, 20)
    adapted = torch.randn(2, 4000, 3) @ directions + 5  # patches differ in three of twenty directions
    strength = torch.full((2, 4000, 1), 0.3)
    added = anomalous_features(adapted, strength, kind="differences") - adapted
    torch.testing.assert_close(added.square().mean((1, 2)).sqrt(), torch.full((2,), 0.3), rtol=1e-3, atol=0)
    for member in range(2):
        assert torch.linalg.matrix_rank(added[member], rtol=1e-3) == 3
    own = (adapted - adapted.mean(1, keepdim=True)).flatten()
    assert abs(float(torch.corrcoef(torch.stack([own, added.flatten()]))[0, 1])) < 0.03


def test_differences_of_equal_patches_are_none() -> None:
    adapted = torch.ones(1, 8, 3)
    added = anomalous_features(adapted, torch.full((1, 8, 1), 0.3), kind="differences")
    assert torch.equal(added, adapted)


def test_differences_teach_the_adaptor_nothing_by_their_size() -> None:
    adapted = torch.randn(1, 8, 3, requires_grad=True)
    anomalous_features(adapted, torch.full((1, 8, 1), 0.3), kind="differences").sum().backward()
    assert adapted.grad is not None
    torch.testing.assert_close(adapted.grad, torch.ones_like(adapted))


def test_cross_entropy_is_that_of_labelled_logits() -> None:
    normal, anomalous = torch.randn(3, 10), torch.randn(3, 10)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    for member, loss in enumerate(cross_entropy_loss(normal, anomalous)):
        expected = entropy(normal[member], torch.ones(10)) + entropy(anomalous[member], torch.zeros(10))
        torch.testing.assert_close(loss, expected)


def test_members_stay_apart_in_deeper_discriminators(make_config: Callable[..., SimpleNetConfig]) -> None:
    model = SimpleNet(make_config(members=2, discriminator_depth=3), 12).eval()
    features = torch.randn(2, 8, 12)
    before = model.discriminator(features)
    features[1] += 1
    after = model.discriminator(features)
    torch.testing.assert_close(before[0], after[0])
    assert (before[1] != after[1]).any()
