"""Random: hidden channels that the seed draws are cut at once, the floor that every rule must rise above."""

from workers.pruning.at_once import ChannelsAtOnce

METHOD = ChannelsAtOnce()
