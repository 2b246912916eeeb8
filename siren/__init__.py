"""SIREN on images, in Jittor.

Importing this package prepares the environment so that a following ``import jittor`` succeeds on
this machine (see ``siren.runtime``); it does not import Jittor itself.
"""

from siren.runtime import prepare

prepare()
