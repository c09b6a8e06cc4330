"""FlexAttention's mask, tiles and choice, on the CPU; its kernels need a GPU."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

from recipes.layout import attention, flex
from recipes.layout.collate import Collator, block_mask
from tests.recipes.layout.test_training_layout import reward_model, token_group
from tests.tiny import tiny_config

torch.set_num_threads(1)

GROUPS = {
    "short": [token_group(1, 9, [4, 7, 1]), token_group(2, 20, [3, 11])],
    "long": [
        token_group(1, 300, [140, 7, 130]),
        token_group(2, 20, [3, 200]),
        token_group(3, 1, [1]),
    ],
    "one prompt": [token_group(4, 390, [300, 128])],
}


def rows(groups, packed):
    batch = Collator(0, "shared", packed)(groups)
    return [flex.whole_tiles(batch[name], -1) for name in ("segment_ids", "group_ids")]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", GROUPS)
def test_the_rule_and_the_tiles_equal_the_dense_mask(name, packed):
    segments, groups = rows(GROUPS[name], packed)
    count, length = segments.shape
    assert length % flex.TILE == 0 and length >= 2 * flex.TILE
    result = flex.tile_mask(segments, groups)
    dense = block_mask(segments, groups, torch.float32) == 0

    assert torch.equal(create_mask(result.mask_mod, count, 1, length, length, "cpu"), dense)
    reference = create_block_mask(result.mask_mod, count, None, length, length, "cpu")
    assert torch.equal(result.to_dense(), reference.to_dense())
    for ours, torchs in (
        (result.kv_num_blocks, reference.kv_num_blocks),
        (result.full_kv_num_blocks, reference.full_kv_num_blocks),
        (result.q_num_blocks, reference.q_num_blocks),
    ):
        assert torch.equal(ours, torchs)


def test_a_tile_is_full_only_if_none_of_it_is_masked():
    segments, groups = rows(GROUPS["one prompt"], packed=True)
    kinds = flex.count_in_tiles(segments, groups)[0]
    dense = (block_mask(segments, groups, torch.float32) == 0)[0, 0]
    expected = dense.unflatten(0, (-1, 128)).unflatten(2, (-1, 128)).sum(dim=(1, 3))
    assert torch.equal(kinds, expected)
    assert (kinds == 128 * 128).any() and (kinds == 0).any()


def test_flex_attention_equals_sdpa_with_the_dense_mask():
    segments, groups = rows(GROUPS["long"], packed=True)
    torch.manual_seed(0)
    query = torch.randn(1, 4, segments.shape[1], 16)
    key, value = torch.randn(2, 1, 2, segments.shape[1], 16).unbind()
    mask = block_mask(segments, groups, torch.float32)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, enable_gqa=True
    )
    tiles = flex.tile_mask(segments, groups)
    result = flex_attention(query, key, value, block_mask=tiles, enable_gqa=True)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_a_batch_of_another_shape_is_not_compiled_again(monkeypatch):
    compiled = []

    def count(graph, inputs):
        compiled.append(graph)
        return graph.forward

    torch.compiler.reset()
    attend = torch.compile(flex_attention, dynamic=True, backend=count)
    monkeypatch.setattr(flex, "compiled", lambda: attend)
    for length in (100, 300, 500, 1000, 1400):
        segments, groups = rows([token_group(length, 50, [length - 60, 10])], packed=True)
        heads = torch.randn(1, 7, segments.shape[1], 16)
        tiles = flex.tile_mask(segments, groups)
        out, _ = flex.tiles_attention(None, heads, heads, heads, tiles, scaling=0.25)
        assert out.shape == (1, segments.shape[1], 7, 16)
    assert len(compiled) == 1


def test_tiles_and_the_dense_mask_give_a_backbone_the_same_output(tmp_path, monkeypatch):
    monkeypatch.setattr(flex, "compiled", lambda: flex_attention)
    model = reward_model(tmp_path)
    attention.set_attention(model.classifier, "cuda")
    assert attention.attention_of(model.config) == "tiles"
    batch = Collator(0, "shared", packed=True)(GROUPS["long"][1:])
    real = batch["input_ids"].shape[1]
    with torch.no_grad():
        dense, tiles = (
            model._backbone(**attention.inputs_of(way, batch, torch.float32))
            for way in ("dense", "tiles")
        )
        torch.testing.assert_close(tiles[:, :real], dense, atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model._backbone(**attention.inputs_of("tiles", batch, torch.bfloat16))
    torch.testing.assert_close(mixed[:, :real].float(), dense, atol=5e-2, rtol=5e-2)


def test_mixed_formats_after_autocast_are_unified():
    whole, half = torch.ones(2, dtype=torch.float32), torch.ones(2, dtype=torch.bfloat16)
    assert {x.dtype for x in flex.same_dtype(whole, whole, half)} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        assert {x.dtype for x in flex.same_dtype(whole, whole, whole)} == {torch.bfloat16}
    assert {x.dtype for x in flex.same_dtype(whole, whole, whole)} == {torch.float32}


@pytest.mark.parametrize(
    ("device", "family", "changes", "way"),
    [
        ("cpu", "llama", {}, "pieces"),
        ("cuda", "llama", {}, "tiles"),
        ("cuda", "llama", {"attention_dropout": 0.1}, "dense"),  # FlexAttention has none
        ("cuda", "gemma2", {}, "dense"),  # its scores are capped
        ("mps", "llama", {}, "dense"),
    ],
)
def test_the_attention_depends_on_the_device_and_the_family(device, family, changes, way):
    config = tiny_config(family, **changes)
    config._attn_implementation = "sdpa"
    assert attention.best_for(device, config) == way


def test_an_attention_that_the_user_chose_is_kept():
    config = tiny_config("llama")
    config._attn_implementation = "eager"
    assert attention.best_for("cpu", config) == attention.best_for("cuda", config) == "dense"


def test_on_a_gpu_the_backbone_gets_tiles_and_whole_rows_and_elsewhere_a_dense_mask():
    assert attention.usable("tiles", "cuda") == "tiles"
    assert attention.usable("tiles", "cpu") == "dense"
    batch = Collator(0, "shared", packed=True)(GROUPS["short"])
    dense = attention.inputs_of("dense", batch, torch.float32)
    assert dense["attention_mask"].shape == (1, 1, 55, 55)
    tiles = attention.inputs_of("tiles", batch, torch.float32)
    assert tiles["input_ids"].shape == tiles["position_ids"].shape == (1, 256)
    assert isinstance(tiles["attention_mask"], flex.BlockMask)
