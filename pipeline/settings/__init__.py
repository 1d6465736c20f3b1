"""What a run is asked to do: flags first, then ``pipeline.toml``, then what ``retrain`` left in the file, then defaults."""

from pipeline.settings.settings import CURVE_SAMPLES as CURVE_SAMPLES
from pipeline.settings.settings import Settings as Settings
from pipeline.settings.sources import FITTING as FITTING
from pipeline.settings.sources import METADATA as METADATA
from pipeline.settings.sources import TOML as TOML
from pipeline.settings.sources import limits_beside as limits_beside
from pipeline.settings.sources import metadata_of as metadata_of
from pipeline.settings.sources import settle as settle
from pipeline.settings.sources import settled as settled
from pipeline.settings.values import BYTES as BYTES
from pipeline.settings.values import SECONDS as SECONDS
from pipeline.settings.values import amount as amount
