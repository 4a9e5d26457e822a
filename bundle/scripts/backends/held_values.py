"""How many numbers a program holds per voxel of a window: windows are as large as the memory allows by them.

Measured in float32 on one thread, by how much the peak memory of a process grows with the window: with the shipped
network from 96 x 192 x 192 voxels to 128 x 256 x 256, with twice its channels from 96 x 160 x 160 to 96 x 256 x 256,
with the published form from 64 x 128 x 128 to 96 x 192 x 192. What is stated covers the first two, in which torch alone
computes in slabs and in place; for the published form, where it does not either, it is up to four times too much.

    =============  =======  ==================  ==============
    program        shipped  twice the channels  published form
    =============  =======  ==================  ==============
    torch               11                  15              64
    torch.compile       33                  60              76
    OpenVINO            34                  68              77
    TorchScript         49                 101              95
    onnxruntime         64                 113             111
    =============  =======  ==================  ==============
"""

from __future__ import annotations

from torch import nn

TORCH = 12.0  # as the shipped network states it; with twice the channels 20
COMPILED, OPENVINO, TORCHSCRIPT, ONNXRUNTIME = 38.0, 42.0, 64.0, 68.0


def restate_values(network: nn.Module, of_program: float) -> None:
    """Set ``values_per_voxel`` of a network, which is what torch holds for it, to what another program holds.

    With more channels the numbers of all programs rise alike. Where torch's is not stated, nothing is.

    Args:
        network: run by the program.
        of_program: what the program holds for the shipped network.
    """
    if hasattr(network, "values_per_voxel"):
        values = of_program * max(float(network.values_per_voxel) / TORCH, 1.0)  # type: ignore[arg-type]
        vars(network)["values_per_voxel"] = values  # torch.compile's module would set that of the network inside
