"""Logical consistency of a judge of pairs (2410.02205): measures, rank aggregation, REPAIR of comparisons, PairS."""

from jaxllm.consistency.comparisons import Comparisons
from jaxllm.consistency.data import Instance, read_instances, read_matrices
from jaxllm.consistency.measuring import Settings, measure
from jaxllm.consistency.pair_ranking import rank
from jaxllm.consistency.ranking import ESTIMATORS, Ranking
from jaxllm.consistency.repair import Repaired, repair
from jaxllm.consistency.results import summarize
from jaxllm.consistency.sorting import merge_sort
from jaxllm.consistency.templates import Template, load_template

__all__ = ["ESTIMATORS", "Comparisons", "Instance", "Ranking", "Repaired", "Settings", "Template", "load_template",
           "measure", "merge_sort", "rank", "read_instances", "read_matrices", "repair", "summarize"]
