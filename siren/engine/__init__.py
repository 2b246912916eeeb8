"""Evaluation of the network and its derivatives, behind one interface (see ``reference``)."""
