"""From a file to a token table: every row accounted for, every trained token proven."""

from typing import TYPE_CHECKING, Any

from .data import Data as Data
from .data import DataSource as DataSource
from .examples import WAYS as WAYS
from .examples import Call as Call
from .examples import Completion as Completion
from .examples import Conversation as Conversation
from .examples import Detection as Detection
from .examples import Document as Document
from .examples import Examples as Examples
from .examples import Judged as Judged
from .examples import Kind as Kind
from .examples import Labelled as Labelled
from .examples import Message as Message
from .examples import Overlong as Overlong
from .examples import Pair as Pair
from .examples import Prompt as Prompt
from .examples import Source as Source
from .examples import Tagged as Tagged
from .format import BadRow as BadRow
from .format import DataFormat as DataFormat
from .formats.bfcl import bfcl as bfcl
from .formats.classification import classification as classification
from .formats.extraction import extraction as extraction
from .formats.registry import register as register
from .formats.translation import translation as translation
from .holdout import hold_out as hold_out
from .loading import detect as detect
from .loading import read_examples as read_examples
from .loading import sample as sample
from .readers.sources import digest as digest

if TYPE_CHECKING:
    from .encoding import Encoded as Encoded
    from .encoding import Limits as Limits
    from .encoding import encode as encode
    from .encoding import encode_data as encode_data
    from .questions import Question as Question
    from .report import DataReport as DataReport
    from .tokens.spill import Spill as Spill
    from .tokens.table import Ragged as Ragged
    from .tokens.table import TokenTable as TokenTable

# A Pipeline is built and checked with the names above; these load on first use.
_LATER = {
    "Encoded": "encoding",
    "encode": "encoding",
    "Limits": "encoding",
    "encode_data": "encoding",
    "DataReport": "report",
    "Question": "questions",
    "Ragged": "tokens.table",
    "Spill": "tokens.spill",
    "TokenTable": "tokens.table",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f".{_LATER[name]}", __name__), name)
