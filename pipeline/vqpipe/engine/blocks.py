"""Ray Data's blocks as the stages yield them: no more rows in one, and no fewer."""

from typing import cast

import ray
from ray.data._internal.execution.operators.map_operator import MapOperator
from ray.data._internal.logical.interfaces import PhysicalPlan, Plan, Rule
from ray.data._internal.logical.optimizers import get_physical_ruleset
from ray.data._internal.logical.rules import FuseOperators
from ray.data._internal.output_buffer import OutputBlockSizeOption

_AS_YIELDED = OutputBlockSizeOption(disable_block_shaping=True)


def keep_blocks() -> None:
    """Has Ray Data leave blocks as they are, in every graph of this process from now on."""
    if KeepBlocks not in get_physical_ruleset():
        get_physical_ruleset().add(KeepBlocks)


class KeepBlocks(Rule):
    """Switches the shaping of blocks off, as Ray's own operators that write do (2.60).

    By default Ray gathers what a task yields until it has more than one target for all operators,
    and cuts what has 1.5 times as much (`output_buffer.py`): the codes of half a minute never have
    as much as the pixels of a second. There is no option for it that an operator could be given.
    """

    @classmethod
    def dependencies(cls) -> list[type[Rule]]:
        """Returns the rules that come before."""
        return [FuseOperators]

    def apply(self, plan: Plan) -> Plan:
        """Returns the plan, in which no operator shapes blocks."""
        for operator in cast(PhysicalPlan, plan).dag.post_order_iter():
            if isinstance(operator, MapOperator):
                for function in operator.get_map_transformer().get_transform_fns():
                    function._output_block_size_option = _AS_YIELDED  # noqa: SLF001
                    if function.output_block_size_option is not _AS_YIELDED:
                        raise RuntimeError(f"Ray {ray.__version__} shapes blocks in another way")
        return plan
