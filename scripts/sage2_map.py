#!/usr/bin/env python3
"""Reads an adaptive map (schema sage2-map/1) and answers which variant a cell runs. Copy it into your own code.

    AdaptiveMap("map.json").variant(layer=2, timestep=24)    # "sage2-8b"
    python3 sage2_map.py map.json 2 24
"""
import json
import sys
import warnings


class AdaptiveMap:
    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            self.map = json.load(file)
        if self.map.get("schema") != "sage2-map/1":
            raise ValueError(f"{path}: expected schema sage2-map/1, found {self.map.get('schema')!r}")
        self.layers = {}
        for cell in self.map["cells"]:
            self.layers.setdefault(cell["layer"], {})[cell["timestep"]] = cell["variant"]

    def variant(self, layer, timestep):
        """Name of the variant. A timestep that was not captured takes the nearest (of two the earlier) and warns."""
        if layer not in self.layers:
            raise KeyError(f"the map has no layer {layer}")
        steps = self.layers[layer]
        nearest = min(steps, key=lambda step: (abs(step - timestep), step))
        if nearest != timestep:
            warnings.warn(f"layer {layer}, timestep {timestep} was not captured: timestep {nearest} answers for it")
        return steps[nearest]


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: sage2_map.py MAP LAYER TIMESTEP")
    print(AdaptiveMap(sys.argv[1]).variant(int(sys.argv[2]), int(sys.argv[3])))
