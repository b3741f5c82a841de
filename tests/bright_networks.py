"""Networks set by hand, whose only path passes each voxel through: bright is soma."""

import torch

from flysoma.models.networks.network import Network, NetworkSpec
from flysoma.models.networks.weights import save_network

LOCATE = ("background", "core"), (240.0, 64.0, 64.0)
SEGMENT = ("background", "interior", "boundary"), (40.0, 64.0, 64.0)


def brightness_network(path, classes, voxel_nm):
    """Class 1 where the image is brighter than 127, background elsewhere, class 2 nowhere."""
    args = {"stem": (1, 1, 1), "widths": (8,), "pools": ()}
    spec = NetworkSpec("somanet", classes, voxel_nm, (64, 64, 64), args, 1 / 127.5, -1.0)
    net = spec.build()
    for weight in net.parameters():
        torch.nn.init.zeros_(weight)
    with torch.no_grad():
        net.enter.weight[0, 0, 1, 1, 1] = 1  # bright
        net.enter.weight[1, 0, 1, 1, 1] = -1  # dark
        net.head.weight[0, 1] = 60
        net.head.weight[1, 0] = 60
        net.head.bias[2:] = -60
    save_network(path, Network(net, spec))
    return str(path)
