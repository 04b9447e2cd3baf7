"""What a pretraining step has to compute: the FLOPs of its matrix products, two a multiply-add, by formula."""

from modeling_ecg_jepa import EcgJepaConfig


def layer_flops(size: int, mlp_ratio: int, tokens: int, keys: int, wanted: int) -> int:
    """Forward of a layer: queries, keys, values and projection; scores and weighted sum; the MLP of wanted tokens."""
    return 2 * (4 * size**2 * tokens + 2 * size * keys * tokens + 2 * mlp_ratio * size**2 * wanted)


def patch_flops(config: EcgJepaConfig, times: int) -> int:
    return 2 * config.patch_size * config.hidden_size * len(config.leads) * times


def encoder_flops(config: EcgJepaConfig, times: int) -> int:
    """Forward of the encoder over a record of so many times. A token meets itself in its lead and in its time."""
    tokens, keys = len(config.leads) * times, len(config.leads) + times
    layer = layer_flops(config.hidden_size, config.mlp_ratio, tokens, keys, wanted=tokens)
    return patch_flops(config, times) + config.num_hidden_layers * layer


def predictor_flops(config: EcgJepaConfig, hidden: int) -> int:
    """Forward of the predictor over a record: each lead a sequence; the last MLP at the hidden times alone."""
    leads, times, size = len(config.leads), config.num_patches, config.predictor_hidden_size
    wanted = [times] * (config.predictor_num_hidden_layers - 1) + [hidden]
    layers = sum(layer_flops(size, config.mlp_ratio, leads * times, times, leads * some) for some in wanted)
    in_and_out = 2 * size * config.hidden_size * leads * times
    return layers + in_and_out


def step_flops(config: EcgJepaConfig, hidden: int) -> dict[str, int]:
    """FLOPs of a step for each record, with `hidden` of the record's times hidden, by what they are done for.

    Backward are two products for each forward, but for the patches, which need no gradient.
    """
    visible = config.num_patches - hidden
    student, predictor = encoder_flops(config, visible), predictor_flops(config, hidden)
    return {
        "teacher": encoder_flops(config, config.num_patches),
        "student and predictor": student + predictor,
        "backward": 2 * (student + predictor) - patch_flops(config, visible),
    }
