"""Check a bundle with MONAI itself. This runs the bundle's own code, so these checks come last."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out
from refusal import Refusal

WORKFLOWS = {"train.json": "train", "inference.json": "infer"}
WINDOW = (1, 1, 33, 40, 47)  # no multiple of the network's stride
LARGEST_DIFFERENCE = 1e-3  # of two logits


def settings_of(bundle: Path) -> dict[str, Any]:
    """Return the files and the folder as arguments of MONAI's commands."""
    configs = bundle / "configs"
    files = {"config_file": str(configs / "inference.json"), "meta_file": str(configs / "metadata.json")}
    return {**files, "bundle_root": str(bundle)}


def check_properties(bundle: Path) -> str:
    """Check that the configs have all items that MONAI's programs need by name.

    Raises:
        Refusal: names the config and the items.
    """
    for name, kind in WORKFLOWS.items():
        with tempfile.TemporaryDirectory() as empty:
            workflow = ConfigWorkflow(
                workflow_type=kind, **(settings_of(bundle) | {"config_file": str(bundle / "configs" / name)}),
                logging_file=False, dataset_dir=empty, output_dir=f"{empty}/output", device="$torch.device('cpu')",
            )  # fmt: skip
            workflow.initialize()
            if missing := workflow.check_properties():
                raise Refusal(f"configs/{name} lacks {', '.join(map(str, missing))}.")
    return " and ".join(WORKFLOWS)


def check_in_and_out(bundle: Path) -> str:
    """Check that the network's input and output are those of the metadata.

    Raises:
        Refusal: quotes MONAI.
    """
    try:
        verify_net_in_out(net_id="network_def", device="cpu", **settings_of(bundle))
    except (ValueError, RuntimeError) as error:
        raise Refusal(f"the network does not fit configs/metadata.json: {str(error).splitlines()[0]}") from None
    return "as the metadata say"


def check_torchscript(bundle: Path) -> str:
    """Check that TorchScript compiles the network, and that the compiled network gives the same logits.

    Raises:
        Refusal: quotes TorchScript, or states the difference of the logits.
    """
    parser = ConfigParser()
    parser.read_config(settings_of(bundle)["config_file"])
    parser["bundle_root"] = str(bundle)
    network = parser.get_parsed_content("network_def").eval()
    if (weights := bundle / "models" / "model.pt").exists():
        network.load_state_dict(torch.load(weights, weights_only=True))
    stream = io.BytesIO()
    try:
        torch.jit.save(torch.jit.script(network), stream)
    except RuntimeError as error:
        raise Refusal(f"TorchScript does not take the network: {str(error).strip().splitlines()[0]}") from None
    stream.seek(0)
    windows = torch.rand(WINDOW, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = float((torch.jit.load(stream)(windows) - network(windows)).abs().max())
    if not difference <= LARGEST_DIFFERENCE:
        raise Refusal(f"the logits of the TorchScript network differ by up to {difference:.2g}.")
    return f"largest logit difference {difference:.1g}"
