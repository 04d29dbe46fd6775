# The part of `flwr_datasets.partitioner` that LEFF uses.

from datasets import Dataset

class Partitioner:
    dataset: Dataset
    def load_partition(self, partition_id: int) -> Dataset: ...

class IidPartitioner(Partitioner):
    def __init__(self, num_partitions: int) -> None: ...

class DirichletPartitioner(Partitioner):
    def __init__(
        self,
        *,
        num_partitions: int,
        partition_by: str,
        alpha: float,
        min_partition_size: int,
        self_balancing: bool,
        shuffle: bool,
        seed: int,
    ) -> None: ...

class NaturalIdPartitioner(Partitioner):
    def __init__(self, partition_by: str) -> None: ...
