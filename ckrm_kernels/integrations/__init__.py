"""Calls from the training code that people have: a monitor for a loop, and an adapter a library, each in its file."""

from ckrm_kernels.integrations.curves import scalars
from ckrm_kernels.integrations.monitor import RedundancyMonitor

__all__ = ["RedundancyMonitor", "scalars"]
