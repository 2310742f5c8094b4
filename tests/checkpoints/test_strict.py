"""A model is filled completely and exactly, or not at all."""

import pytest
import torch
from torch import nn

from leanformer.checkpoints.strict import load_strict
from leanformer.errors import CheckpointError
from leanformer.layers.norm import PRepBN


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), PRepBN().build(4), nn.Linear(4, 2, bias=False))


def weights() -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, 2) for name, tensor in network().state_dict().items()}


def test_every_tensor_is_copied():
    model, tensors = network(), weights()
    load_strict(model, tensors, source="a.pth")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[name])
    tensors["0.weight"].zero_()
    assert model.state_dict()["0.weight"].any()


def test_absent_counters_become_zero():
    model, tensors = network(), weights()
    for name in ("1.progress", "1.rep.bn.num_batches_tracked"):
        model.state_dict()[name].fill_(1)
        del tensors[name]
    load_strict(model, tensors, source="a.pth")
    assert model.state_dict()["1.progress"] == 0
    assert model.state_dict()["1.rep.bn.num_batches_tracked"] == 0


def test_absent_running_statistics_are_an_error():
    tensors = weights()
    del tensors["1.rep.bn.running_var"]
    with pytest.raises(CheckpointError, match=r"1 nothing fills:\n    1\.rep\.bn\.running_var \(4,\)"):
        load_strict(network(), tensors, source="a.pth")


def test_all_that_differs_is_listed_and_nothing_is_changed():
    model, tensors = network(), weights()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["0.weigth"] = tensors.pop("0.weight")
    tensors["2.weight"] = torch.zeros(5, 4)
    tensors["0.bias"] = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(CheckpointError) as caught:
        load_strict(model, tensors, source="a.pth", key_map_name="swin")
    assert str(caught.value).splitlines() == [
        "a.pth does not fit the model through the key map 'swin'",
        "  1 nothing fills:",
        "    0.weight (4, 3)",
        "  1 not in the model:",
        "    0.weigth (4, 3)",
        "  1 of another shape:",
        "    2.weight is (5, 4), the model's (2, 4)",
        "  1 of another dtype:",
        "    0.bias is int64, the model's float32",
        "  0.weigth is nearest to 0.weight",
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_long_lists_are_cut_and_counted():
    with pytest.raises(CheckpointError, match=r"(?s)20 not in the model:.*and 12 more"):
        load_strict(network(), {**weights(), **{f"x{i}": torch.zeros(1) for i in range(20)}}, source="a.pth")


def test_half_precision_files_fill_a_full_precision_model_unless_exactness_is_asked_for():
    tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights().items()}
    model = network()
    load_strict(model, tensors, source="a.pth")
    assert model.state_dict()["0.weight"].dtype == torch.float32
    with pytest.raises(CheckpointError, match=r"0\.weight is float16, the model's float32"):
        load_strict(model, tensors, source="a.pth", same_dtype=True)
