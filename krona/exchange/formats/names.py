"""The names of formats and precisions, and those under which an export says what it is."""

from typing import Literal

ExportFormat = Literal["kohya", "lycoris", "diffusers", "peft", "lora", "merged", "merged-file"]
Dtype = Literal["fp16", "bf16", "fp32"]

EXPORT_KEY = "krona_export"  # a file's metadata: how it was exported, and the measured error
MANIFEST_KEY = "krona_manifest"  # a file's metadata: the manifest of the adapter it was made from
EXPORT_FILE = "krona.json"  # in a folder: both
