"""How layers read earlier layers: topologies, aggregations, stages, loops over layers."""
