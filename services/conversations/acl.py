"""What the product's user may do on a server: the least that its stores need, as ``ACL SETUSER`` takes it."""

from __future__ import annotations

from typing import Final

DATA: Final = (
    "resetchannels ~c1:* -@all +@hash +@list +@set +@sortedset +@stream +@string -@dangerous "
    "+del +unlink +exists +expire +pexpire +pexpireat +ttl +eval +evalsha +multi +exec +time +ping +select"
)
CLUSTER: Final = "+command +cluster|slots"  # how redis-py finds the nodes of a Cluster, and a command's keys
CHECKS: Final = "+info +config|get"  # without these the checks at the start only warn that they saw nothing
RULES: Final = f"{DATA} {CLUSTER} {CHECKS}"
