"""Train 3D-R2N2 over Horovod ranks, each rank splitting the network's layers over its local devices."""

__version__ = "0.1.0"
