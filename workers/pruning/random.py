"""Random: hidden channels that the seed draws are cut at once, the floor that a rule worth its name rises above."""

from workers.pruning.at_once import ChannelsAtOnce

METHOD = ChannelsAtOnce()
