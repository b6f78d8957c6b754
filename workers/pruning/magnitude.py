"""Magnitude: the hidden channels of least weight, over all tensors that touch the stream, are cut at once.

Weight is the ℓ2 norm of all that a channel couples, the group norm of Fang et al., "DepGraph: Towards Any Structural
Pruning" (2023), and the usual data-free reference. It need not beat `random`: see DECISIONS.
"""

from workers.pruning.at_once import ChannelsAtOnce

METHOD = ChannelsAtOnce()
