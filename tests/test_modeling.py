"""The models: shapes, masks, lead subsets, the teacher, heads, saving and loading."""

import copy
import math

import pytest
import torch
from benchmarks.flops import step_flops
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

from modeling_ecg_jepa import (
    EcgJepaCheckpointError,
    EcgJepaConfig,
    EcgJepaConfigError,
    EcgJepaForMultiLabelClassification,
    EcgJepaForPreTraining,
    EcgJepaForRegression,
    EcgJepaInputError,
    EcgJepaModel,
    EcgJepaOutputError,
)
from modeling_ecg_jepa.modeling_ecg_jepa import ResidualOutput, draw_branch_scales, grid_positions

TARGETS = [
    {"name": "heart rate", "unit": "bpm", "mean": 70.0, "scale": 15.0},
    {"name": "QRS", "unit": "ms", "mean": 95.0, "scale": 12.0},
]


def tiny(**fields):
    return EcgJepaConfig.from_preset("tiny", **fields)


@pytest.fixture
def signal():
    return torch.randn(3, 8, 2500, generator=torch.Generator().manual_seed(0)) * 0.3


@pytest.fixture
def model():
    torch.manual_seed(0)
    return EcgJepaModel(tiny()).eval()


def block_mask():
    mask = torch.zeros(50, dtype=torch.bool)
    mask[5:15], mask[30:44] = True, True
    return mask


# --- positions and initialisation


def test_positions_follow_the_formula_of_the_paper():
    positions = grid_positions(torch.arange(50), torch.arange(8), 64)
    lead, time = 3, 17
    frequencies = [10000 ** (-i / 16) for i in range(16)]
    by_hand = [math.sin(time * w) for w in frequencies] + [math.cos(time * w) for w in frequencies]
    by_hand += [math.sin(lead * w) for w in frequencies] + [math.cos(lead * w) for w in frequencies]
    torch.testing.assert_close(positions[lead * 50 + time], torch.tensor(by_hand, dtype=torch.float64))


def test_initial_weights_shrink_with_depth_and_the_patch_embedding_has_its_own_scale():
    torch.manual_seed(0)
    model = EcgJepaModel(EcgJepaConfig(num_hidden_layers=3, patch_initializer_range=0.4))
    for index, layer in enumerate(model.layers, start=1):
        for linear in (layer.attention.proj, layer.mlp.fc2):
            assert isinstance(linear, ResidualOutput)
            assert linear.weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * index), rel=0.02)
            assert (linear.bias == 0).all()
        for linear in (layer.attention.qkv, layer.mlp.fc1):
            assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert layer.attention.qkv.bias is None
    assert model.patch_embedding.weight.std().item() == pytest.approx(0.4, rel=0.05)


def test_parameter_counts_are_the_papers():
    with torch.device("meta"):
        model = EcgJepaForPreTraining(EcgJepaConfig())
    assert sum(p.numel() for p in model.encoder.parameters()) == 85_067_520
    assert sum(p.numel() for p in model.predictor.parameters()) == 11_232_000


def test_stochastic_depth_rises_linearly_and_is_off_in_evaluation(model, signal):
    torch.manual_seed(0)
    scales = torch.stack(draw_branch_scales(0.4, 5, torch.zeros(4000, 7, 8)))
    assert scales.shape == (5, 2, 4000, 1, 1)
    for layer, rate in zip(scales, [0, 0.1, 0.2, 0.3, 0.4], strict=True):
        assert layer.unique().tolist() == pytest.approx([0, 1 / (1 - rate)] if rate else [1])
        assert (layer == 0).float().mean((1, 2, 3)).tolist() == pytest.approx([rate] * 2, abs=0.03)
    assert model(signal).pooler_output.equal(model(signal).pooler_output)
    strong = EcgJepaModel(tiny(drop_path_rate=0.9)).train()
    assert not strong(signal).pooler_output.equal(strong(signal).pooler_output)


def test_a_dropped_branch_adds_nothing_and_a_kept_one_its_multiple(model):
    layer, tokens, positions = model.layers[1], torch.randn(3, 20, 96), torch.randn(20, 96)
    scales = torch.tensor([[0.0, 0.0, 2.0], [0.0, 2.0, 2.0]])[..., None, None]
    out = layer(tokens, positions, (2, 10), branch_scales=scales)
    start = tokens + positions
    attended = start + scales[0] * layer.attention(layer.norm1(start), (2, 10))[0]
    assert out[0].equal(start[0])
    torch.testing.assert_close(out, attended + scales[1] * layer.mlp(layer.norm2(attended)), rtol=0, atol=1e-5)


# --- the encoder


def test_shapes_and_outputs(model, signal):
    out = model(signal, output_hidden_states=True)
    assert out.last_hidden_state.shape == (3, 400, 96)
    assert out.pooler_output.shape == (3, 96)
    assert [h.shape for h in out.hidden_states] == [(3, 400, 96)] * 5
    torch.testing.assert_close(out.pooler_output, out.last_hidden_state.mean(1))
    as_tuple = model(signal, return_dict=False)
    assert as_tuple[0].equal(out.last_hidden_state)


@pytest.mark.parametrize("patches", [1, 7, 50, 63])
def test_any_whole_number_of_patches(model, patches):
    assert model(torch.randn(2, 8, 50 * patches)).last_hidden_state.shape == (2, 8 * patches, 96)


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "cropa"])
def test_a_lead_subset_equals_the_full_grid_with_the_other_leads_missing(model, signal, implementation):
    model.set_attn_implementation(implementation)
    there = torch.tensor([1, 2])
    lead_mask = torch.zeros(3, 8, dtype=torch.bool)
    lead_mask[:, there] = True
    masked = model(signal, lead_mask=lead_mask)
    by_name = model(signal[:, there], leads=["MLII", "V1"])
    by_place = model(signal[:, there], leads=there)
    torch.testing.assert_close(by_name.pooler_output, masked.pooler_output, rtol=0, atol=1e-5)
    assert by_name.pooler_output.equal(by_place.pooler_output)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa", "cropa"])
def test_padding_changes_nothing(signal, implementation, pooling):
    model = EcgJepaModel(tiny(pooling=pooling, attn_implementation=implementation)).eval()
    short = signal[:, :, :1500]
    padded = torch.cat([short, torch.full((3, 8, 1000), 7.0)], dim=-1)
    attention_mask = torch.arange(50).expand(3, 50) < 30
    expected = model(short).pooler_output
    torch.testing.assert_close(model(padded, attention_mask=attention_mask).pooler_output, expected, rtol=0, atol=1e-5)


def test_what_a_missing_lead_holds_is_never_looked_at(model, signal):
    lead_mask = torch.ones(3, 8, dtype=torch.bool)
    lead_mask[0, 3], lead_mask[2, 5:] = False, False
    other = signal.clone()
    other[~lead_mask] = 9.0
    one, two = (model(x, lead_mask=lead_mask).pooler_output for x in (signal, other))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    assert not model(other).pooler_output.allclose(one, atol=1e-3)


def test_visible_times_are_encoded_as_if_the_others_did_not_exist(model, signal):
    visible = torch.tensor([0, 3, 4, 20, 49])
    shared = model(signal, visible_times=visible).last_hidden_state
    assert shared.shape == (3, 40, 96)
    hidden = torch.ones(3, 50, dtype=torch.bool)
    hidden[:, visible] = False
    full = model(signal, attention_mask=~hidden).last_hidden_state.unflatten(1, (8, 50))
    torch.testing.assert_close(shared.unflatten(1, (8, 5)), full[:, :, visible], rtol=0, atol=1e-5)
    each = model(signal, visible_times=visible.expand(3, -1)).last_hidden_state
    torch.testing.assert_close(each, shared, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 800, 10**6])
def test_inference_in_place_gives_what_training_would(model, signal, monkeypatch, tokens):
    monkeypatch.setattr("modeling_ecg_jepa.modeling_ecg_jepa.TOKENS_A_CHUNK", tokens)
    lead_mask = torch.ones(3, 8, dtype=torch.bool)
    lead_mask[1, 4:] = False
    given = signal.clone()
    trained = model(signal, lead_mask=lead_mask, output_hidden_states=True)
    with torch.no_grad():
        inferred = model(signal, lead_mask=lead_mask, output_hidden_states=True)
    assert signal.equal(given)
    for one, two in zip(trained.hidden_states, inferred.hidden_states, strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
    torch.testing.assert_close(inferred.pooler_output, trained.pooler_output, rtol=0, atol=1e-5)


def test_attentions_come_from_eager_and_are_refused_elsewhere(model, signal):
    with pytest.raises(EcgJepaInputError, match=r"set_attn_implementation\('eager'\)"):
        model(signal, output_attentions=True)
    model.set_attn_implementation("eager")
    attentions = model(signal[:1], output_attentions=True).attentions
    assert [a.shape for a in attentions] == [(1, 4, 400, 400)] * 4
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones(1, 4, 400))


def test_the_factorised_form_is_the_default_and_others_are_named():
    assert EcgJepaModel(tiny()).config._attn_implementation == "cropa"
    with pytest.raises(EcgJepaConfigError, match="'flash_attention_2' is not one of eager, sdpa, cropa"):
        EcgJepaModel(tiny(attn_implementation="flash_attention_2"))


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((2, 12, 2500), {}, r"shape \(2, 12, 2500\); expected \(batch, 8 leads, a multiple of 50 samples\)"),
        ((8, 2500), {}, r"shape \(8, 2500\); expected"),
        ((2, 8, 2499), {}, r"shape \(2, 8, 2499\); expected"),
        ((2, 8, 0), {}, "is empty"),
        ((2, 2, 2500), {"leads": ["II", "aVR"]}, "This model has no lead aVR; it has I, II, V1"),
        ((2, 2, 2500), {"leads": torch.tensor([0, 8])}, r"leads=\[0, 8\] .* expected a torch.long vector of 0 to 7"),
        ((2, 2, 2500), {"leads": torch.tensor([0.0, 1.0])}, "expected a torch.long vector"),
        ((2, 8, 2500), {"lead_mask": torch.ones(2, 7)}, r"lead_mask has the shape \(2, 7\); expected \(2, 8\)"),
        ((2, 8, 2500), {"attention_mask": torch.ones(2, 49)}, r"attention_mask .* expected \(2, 50\)"),
    ],
)
def test_wrong_input_is_a_clear_error(model, shape, arguments, message):
    with pytest.raises(EcgJepaInputError, match=message):
        model(torch.zeros(shape), **arguments)


def test_activation_checkpointing_gives_the_same_gradients(signal):
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = EcgJepaModel(tiny(drop_path_rate=0.0)).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(signal).pooler_output.square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_compiles_without_graph_breaks(model, signal, masked):
    lead_mask = torch.ones(3, 8, dtype=torch.bool)
    lead_mask[0, 2] = False
    inputs = {"lead_mask": lead_mask} if masked else {}
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected, got = (m(signal, **inputs).pooler_output for m in (model, compiled))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_mixed_precision_stays_near_float32(model, signal):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(signal).pooler_output
    torch.testing.assert_close(mixed.float(), model(signal).pooler_output, rtol=0, atol=0.05)


# --- pretraining


def test_pretraining_output(signal):
    model = EcgJepaForPreTraining(tiny()).train()
    out = model(signal, time_mask=block_mask())
    assert out.predictions.shape == out.targets.shape == (3, 8, 24, 96)
    assert out.context.shape == (3, 8, 26, 96)
    assert out.time_mask.equal(block_mask())
    torch.testing.assert_close(out.loss, nn.functional.smooth_l1_loss(out.predictions, out.targets))
    torch.testing.assert_close(out.targets.mean(-1), torch.zeros(3, 8, 24), rtol=0, atol=1e-5)
    out.loss.backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in [*model.encoder.parameters(), *model.predictor.parameters()])


def test_a_mask_a_record_equals_the_records_apart(signal):
    model = EcgJepaForPreTraining(tiny()).eval()
    masks = torch.stack([block_mask(), block_mask().roll(3), block_mask().roll(-4)])
    together = model(signal, time_mask=masks)
    for record in range(3):
        alone = model(signal[record : record + 1], time_mask=masks[record])
        torch.testing.assert_close(together.predictions[record], alone.predictions[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together.targets[record], alone.targets[0], rtol=0, atol=1e-5)


def test_several_masks_share_one_pass_of_the_teacher(signal):
    model = EcgJepaForPreTraining(tiny(target_centering=True, drop_path_rate=0.0)).train()
    masks = [torch.arange(50) < 20, torch.arange(50) % 3 == 0]
    apart = [model(signal, time_mask=mask) for mask in masks]
    model._seen_targets.clear()
    together = model(signal, time_mask=masks)
    assert len(model._seen_targets) == 1
    torch.testing.assert_close(together.loss, (apart[0].loss + apart[1].loss) / 2)
    for name in ("predictions", "targets", "context", "time_mask"):
        torch.testing.assert_close(list(together[name]), [output[name] for output in apart])


def test_masks_are_drawn_from_the_generator(signal):
    model = EcgJepaForPreTraining(tiny()).eval()
    masks = [model(signal, generator=torch.Generator().manual_seed(seed)).time_mask for seed in (1, 1, 2)]
    assert masks[0].equal(masks[1]) and not masks[0].equal(masks[2])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(50, dtype=torch.bool), r"hides \[50\] of 50 patches"),
        (torch.zeros(50, dtype=torch.bool), r"hides \[0\] of 50 patches"),
        (torch.eye(3, 50).bool() | (torch.arange(3)[:, None] == 0), r"hides \[1, 50\] of 50"),
        (torch.zeros(50), r"time_mask is torch.float32 of shape \(50,\); expected torch.bool"),
        (torch.zeros(49, dtype=torch.bool), r"of shape \(49,\); expected torch.bool of shape \(50,\)"),
    ],
)
def test_a_mask_that_makes_no_sense_is_an_error(signal, mask, message):
    with pytest.raises(EcgJepaInputError, match=message):
        EcgJepaForPreTraining(tiny())(signal, time_mask=mask)


def test_missing_leads_and_padding_never_enter_the_loss(signal):
    torch.manual_seed(0)
    model = EcgJepaForPreTraining(tiny()).eval()
    lead_mask, attention_mask = torch.ones(3, 8, dtype=torch.bool), torch.ones(3, 50, dtype=torch.bool)
    lead_mask[0, 3], attention_mask[1, 40:] = False, False
    other = signal.clone()
    other[0, 3], other[1, :, 2000:] = 5.0, -3.0
    masks = {"lead_mask": lead_mask, "attention_mask": attention_mask, "time_mask": block_mask()}
    one, two = (model(x, **masks).loss for x in (signal, other))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    assert not torch.isclose(model(other, time_mask=block_mask()).loss, one, rtol=0, atol=1e-5)


def test_the_teacher_starts_as_the_student_stays_in_evaluation_and_follows():
    torch.manual_seed(0)
    model = EcgJepaForPreTraining(tiny()).train()
    pairs = list(zip(model.teacher.parameters(), model.encoder.parameters(), strict=True))
    assert all(teacher.equal(student) for teacher, student in pairs)
    assert model.encoder.training and not model.teacher.training
    before = [teacher.clone() for teacher, _ in pairs]
    with torch.no_grad():
        for _, student in pairs:
            student.add_(torch.randn_like(student))
    model.update_teacher(0.9)
    for old, (teacher, student) in zip(before, pairs, strict=True):
        torch.testing.assert_close(teacher, 0.9 * old + 0.1 * student, rtol=0, atol=1e-6)


def test_target_centring_subtracts_the_running_mean_of_each_lead_and_time(signal):
    torch.manual_seed(0)
    model = EcgJepaForPreTraining(tiny(target_centering=True)).train()
    mask = block_mask()
    everything = model.teacher(signal).last_hidden_state.unflatten(1, (8, 50)).detach()
    first = model(signal, time_mask=mask).targets
    torch.testing.assert_close(first, nn.functional.layer_norm(everything[:, :, mask], (96,)), rtol=0, atol=1e-5)
    model(signal[:1], time_mask=mask)  # a second micro-batch of the same optimizer step
    model.update_teacher(1.0)
    mean = 0.05 * torch.cat([everything, everything[:1]]).mean(0)
    torch.testing.assert_close(model.target_mean, mean, rtol=0, atol=1e-5)
    second = model(signal, time_mask=mask).targets
    expected = nn.functional.layer_norm((everything - mean)[:, :, mask], (96,))
    torch.testing.assert_close(second, expected, rtol=0, atol=1e-4)


def test_target_centring_counts_only_what_is_there(signal):
    model = EcgJepaForPreTraining(tiny(target_centering=True)).train()
    lead_mask = torch.ones(3, 8, dtype=torch.bool)
    lead_mask[:, 2], lead_mask[0, 4] = False, False
    everything = model.teacher(signal, lead_mask=lead_mask).last_hidden_state.unflatten(1, (8, 50)).detach()
    model(signal, lead_mask=lead_mask, time_mask=block_mask())
    model.update_teacher(1.0)
    assert (model.target_mean[2] == 0).all()
    torch.testing.assert_close(model.target_mean[4], 0.05 * everything[1:, 4].mean(0), rtol=0, atol=1e-5)
    with pytest.raises(EcgJepaInputError, match="keeps a mean for num_patches=50 patches; this batch has 60"):
        model(torch.randn(1, 8, 3000))


def test_a_few_steps_lower_the_loss(signal):
    torch.manual_seed(0)
    model = EcgJepaForPreTraining(tiny()).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(10):
        loss = model(signal, time_mask=block_mask()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.update_teacher(0.996)
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# --- the speed of a step


class Operations(TorchDispatchMode):
    """Counts operations on tensors of the meta device, which stands for a GPU here, and those that a host waits for."""

    WAITED_FOR = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "repeat_interleave.Tensor")

    def __init__(self):
        super().__init__()
        self.on_device, self.waited_for = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)}
        if "meta" in devices:
            self.on_device += 1
            blocking_copy = "cpu" in devices and not kwargs.get("non_blocking")
            if blocking_copy or any(name in str(function) for name in self.WAITED_FOR):
                self.waited_for.append(str(function))
        return out


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "cropa"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_training_step_never_makes_the_host_wait_for_a_gpu(implementation, masked):
    layers = {"num_hidden_layers": 1, "predictor_num_hidden_layers": 1}
    config = tiny(target_centering=True, attn_implementation=implementation, **layers)
    with torch.device("meta"):
        model = EcgJepaForPreTraining(config).train()
        signal = torch.empty(3, 8, 2500)
        missing = {"lead_mask": torch.ones(3, 8).bool(), "attention_mask": torch.ones(3, 50).bool()} if masked else {}
    a_mask_a_record = torch.stack([block_mask(), block_mask().roll(3), block_mask().roll(-4)])
    with Operations() as operations:
        for masks in (None, [block_mask(), torch.arange(50) < 20], a_mask_a_record):
            model(signal, time_mask=masks, **missing).loss.backward()
            model.update_teacher(0.996)
        for leads in (["II", "V1"], torch.tensor([1, 2])):
            model(signal[:, :2], time_mask=block_mask(), leads=leads).loss.backward()
    assert operations.on_device > 1000
    assert operations.waited_for == []


def test_compiled_layers_share_a_few_graphs_for_all_masks_and_compute_what_eager_ones_do(signal):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    torch.manual_seed(0)
    eager = EcgJepaForPreTraining(tiny(num_hidden_layers=9, drop_path_rate=0.4)).train()
    compiled = copy.deepcopy(eager)
    compiled.compile_layers(backend=count)
    assert compiled.state_dict().keys() == eager.state_dict().keys()
    made = []
    for hidden in (5, 20, 33, 12):
        losses = []
        for model in (eager, compiled):
            torch.manual_seed(hidden)
            losses.append(model(signal, time_mask=torch.arange(50) < hidden).loss)
            losses[-1].backward()
        torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-6)
        made.append(len(graphs))
    assert made == [made[0]] * 4 and made[0] <= 6
    for one, two in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("hidden", [18, 27, 39])
def test_a_step_computes_no_more_than_the_benchmark_counts_by_formula(hidden):
    """So hidden patches never enter the student, nothing is differentiated that needs not be, and the predictor's last
    MLP sees the hidden times alone."""
    config = EcgJepaConfig()
    with torch.device("meta"):
        model = EcgJepaForPreTraining(config).train()
        signal = torch.empty(2, 8, 2500)
    with FlopCounterMode(display=False) as forward:
        loss = model(signal, time_mask=torch.arange(50) < hidden).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    expected = step_flops(config, hidden)
    assert forward.get_total_flops() == 2 * (expected["teacher"] + expected["student and predictor"])
    assert backward.get_total_flops() == 2 * expected["backward"]


# --- heads


def test_multi_label_loss_and_positive_weights(signal):
    config = tiny(num_labels=4, pos_weight=[1.0, 2.0, 3.0, 4.0])
    model = EcgJepaForMultiLabelClassification(config).eval()
    labels = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1]])
    out = model(signal, labels=labels)
    probability = out.logits.sigmoid()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    by_hand = -(weights * labels * probability.log() + (1 - labels) * (1 - probability).log()).mean()
    torch.testing.assert_close(out.loss, by_hand)
    with pytest.raises(EcgJepaInputError, match=r"labels has the shape \(3,\); .* needs \(3, 4\)"):
        model(signal, labels=torch.tensor([0, 1, 2]))


def test_single_label_loss(signal):
    config = tiny(num_labels=3, problem_type="single_label_classification")
    out = EcgJepaForMultiLabelClassification(config).eval()(signal, labels=torch.tensor([0, 2, 1]))
    by_hand = -out.logits.log_softmax(-1)[torch.arange(3), torch.tensor([0, 2, 1])].mean()
    torch.testing.assert_close(out.loss, by_hand)
    with pytest.raises(EcgJepaConfigError, match="problem_type='regression' is no classification"):
        EcgJepaForMultiLabelClassification(tiny(problem_type="regression"))


def test_regression_comes_out_in_physical_units(signal, tmp_path):
    model = EcgJepaForRegression(tiny(regression_targets=TARGETS)).eval()
    with torch.no_grad():
        model.regressor.weight.zero_()
        model.regressor.bias.copy_(torch.tensor([1.0, -1.0]))
    labels = torch.tensor([[85.0, float("nan")], [70.0, 83.0], [float("nan"), 107.0]])
    out = model(signal, labels=labels)
    torch.testing.assert_close(out.logits, torch.tensor([[85.0, 83.0]]).expand(3, 2))
    torch.testing.assert_close(out.loss, torch.tensor((0 + 1 + 0 + 4) / 4))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is EcgJepaForRegression
    assert loaded(signal).logits.equal(model(signal).logits)
    with pytest.raises(EcgJepaConfigError, match="needs config.regression_targets"):
        EcgJepaForRegression(tiny())


# --- saving and loading


@pytest.mark.parametrize(
    ("auto", "cls", "fields"),
    [
        (AutoModel, EcgJepaModel, {}),
        (AutoModel, EcgJepaModel, {"pooling": "attention"}),
        (AutoModelForPreTraining, EcgJepaForPreTraining, {"target_centering": True}),
        (AutoModelForSequenceClassification, EcgJepaForMultiLabelClassification, {"pos_weight": [1.0, 2.0]}),
    ],
)
def test_saved_and_loaded_is_bitwise_equal(auto, cls, fields, signal, tmp_path):
    model = cls(tiny(**fields)).eval()
    model.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path)
    assert type(loaded) is cls and not loaded.training
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    others = dict([*loaded.named_parameters(), *loaded.named_buffers()])
    assert tensors.keys() == others.keys()
    assert all(tensor.equal(others[name]) for name, tensor in tensors.items())
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json", ".py"}


def test_an_encoder_becomes_student_and_teacher_of_further_pretraining(model, tmp_path):
    model.save_pretrained(tmp_path)
    pretraining = EcgJepaForPreTraining.from_pretrained(tmp_path)
    for part in (pretraining.encoder, pretraining.teacher):
        assert all(p.equal(q) for p, q in zip(part.parameters(), model.parameters(), strict=True))
    assert not any(p.requires_grad for p in pretraining.teacher.parameters())


def test_the_student_of_a_pretraining_checkpoint_is_what_automodel_loads(tmp_path):
    pretraining = EcgJepaForPreTraining(tiny())
    with torch.no_grad():
        for parameter in pretraining.teacher.parameters():
            parameter.add_(1)
    pretraining.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert all(p.equal(q) for p, q in zip(loaded.parameters(), pretraining.encoder.parameters(), strict=True))


def test_a_head_of_another_size_is_made_anew(tmp_path):
    EcgJepaForMultiLabelClassification(tiny(num_labels=5)).save_pretrained(tmp_path)
    loaded = EcgJepaForMultiLabelClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert loaded.classifier.out_features == 3
    assert loaded.classifier.weight.isfinite().all()


def test_a_truncated_safetensors_is_a_clear_error(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(EcgJepaCheckpointError, match="is damaged .* fetch or copy it again"):
        AutoModel.from_pretrained(tmp_path)


def test_pickled_weights_are_never_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(EcgJepaCheckpointError, match="no model.safetensors but pytorch_model.bin: pickled weights"):
        AutoModel.from_pretrained(tmp_path)
    with pytest.raises(EcgJepaCheckpointError, match="use_safetensors=False: pickled weights"):
        EcgJepaModel.from_pretrained(tmp_path, use_safetensors=False)


def test_an_output_folder_that_cannot_be_written_to_is_a_clear_error(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EcgJepaOutputError, match="Cannot write to the folder .*file.* Choose a folder"):
        model.save_pretrained(tmp_path / "file")
    with pytest.raises(EcgJepaOutputError, match="Cannot write to the folder"):
        model.config.save_pretrained(tmp_path / "file" / "below")


def test_under_autocast_what_differs_between_records_is_not_rounded_away():
    # At the paper's settings it is a hundredth of the positions: half of it would be lost in bfloat16.
    torch.manual_seed(0)
    model = EcgJepaForPreTraining(EcgJepaConfig.from_preset("tiny", num_hidden_layers=12)).eval()
    signal, time_mask = torch.randn(6, 8, 2500) * 0.3, torch.arange(50) % 5 < 3
    with torch.no_grad():
        exact = model(signal, time_mask=time_mask).targets
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(signal, time_mask=time_mask).targets
    content, rounded_content = (targets - targets.mean(0) for targets in (exact, rounded))
    assert (rounded_content - content).norm() < 0.1 * content.norm()
