"""Magnitude: the hidden channels of least weight, over all tensors that touch the stream, are cut at once."""

from workers.pruning.at_once import ChannelsAtOnce

METHOD = ChannelsAtOnce()
