"""Generates the stubs when the package is built or installed, and copies the service config beside them."""

import pathlib
import shutil

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = pathlib.Path(__file__).parent
PROTO = HERE.parent.parent / "proto"
SOURCES = HERE / "src"


class Stubs(BuildHookInterface):
    def initialize(self, version, build_data):
        import grpc_tools
        from grpc_tools import protoc

        well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
        files = sorted(str(path) for path in (PROTO / "triseal" / "v1").glob("*.proto"))
        arguments = [
            f"-I{PROTO}",
            f"-I{well_known}",
            *(f"--{kind}_out={SOURCES}" for kind in ("python", "pyi", "grpc_python")),
        ]
        if protoc.main(["protoc", *arguments, *files]) != 0:
            raise RuntimeError(f"protoc has failed on {PROTO}")
        shutil.copy(HERE.parent / "service-config.json", SOURCES / "triseal")
