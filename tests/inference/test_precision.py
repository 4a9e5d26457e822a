import pytest
import torch
from scripts.inference.precision import number_format

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_number_format_is_the_one_named(precision):
    assert number_format(precision, CPU) == getattr(torch, precision)


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bfloat16_only_where_the_device_computes_in_it(monkeypatch, native, expected):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert number_format("auto", CPU) == expected
    assert number_format("auto", torch.device("cuda")) == expected
    assert number_format("auto", torch.device("mps")) == torch.float32
