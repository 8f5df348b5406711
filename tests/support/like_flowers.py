"""A grid like Flower's own, for client apps in this process."""

from types import SimpleNamespace

from flwr.app import Context, RecordDict

from federated.flower.grid import InProcessGrid


class LikeFlowers(InProcessGrid):
    """Node numbers and an order that Flower draws, names that keys were registered with."""

    def __init__(self, app, place, config, names, nodes=(9_000_000_000_000_000_000, 71), offline=lambda: ()):
        super().__init__(app, len(nodes))
        given = [{"hospital": name, "data": str(place / name)} for name in names]
        self.contexts = {node: Context(run_id=1, node_id=node, node_config=own, state=RecordDict(), run_config=config)
                         for node, own in zip(nodes, given, strict=True)}
        self._nodes = [SimpleNamespace(node_id=node, name=name, registered_at=str(k))
                       for k, (node, name) in enumerate(zip(nodes, names, strict=True))]
        self._offline = offline

    def get_nodes(self):
        offline = self._offline()
        return [node for node in self._nodes if node.name not in offline]
