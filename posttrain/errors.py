"""Every error a user can meet. One sentence each: the place, what was found, what to do.

PosttrainError
├── ConfigurationError (ValueError)     found while the Pipeline is built, before torch is imported
│   ├── SettingError                    an unknown setting, or a value out of its range
│   ├── PipelineError                   the list of stages does not fit together
│   ├── StrategyError                   a strategy asked for what it cannot do
│   ├── RecipeError                     a recipe file cannot be read, or says what a recipe cannot say
│   ├── LaunchError                     several processes were started in a way that is not supported
│   └── ModelError                      the starting model is missing, is no model, or has the wrong head
├── DataError (ValueError)
│   ├── DataFileError                   missing, empty, unreadable, or no known format
│   ├── RowError                        rows that break their format, each with file:line and field
│   ├── OverlongError                   more rows than allowed do not fit into max_length
│   └── EmptyStageDataError             nothing is left to train on
├── HandoverError                       a proof between two stages failed; both numbers are in the text
│   ├── ReferenceMismatchError          the policy is not its reference before step 1
│   ├── NothingTrainedError             no trainable parameter moved
│   ├── WrongBaseError                  an adapter was about to be put on another base than its own
│   └── ArtifactMismatchError           what was saved does not give what was trained
├── RunFolderError
│   ├── RunLockedError                  another process works in the folder
│   ├── OtherPipelineError              the folder belongs to another pipeline
│   ├── NoSuchStageError (KeyError)     run["name"] of a stage that has not finished there
│   └── CorruptArtifactError            a committed file is missing, cut, or changed
├── TrainingError
│   ├── TrainingDivergedError           the loss is not a finite number, or the policy says nothing any more
│   ├── RewardError                     a reward function failed, or gave what is no reward
│   ├── SamplerError                    vLLM does not answer, or not as the policy
│   ├── RewardGateError                 the reward model is too weak to be optimised against
│   └── NoValidCheckpointError          all checkpoints are damaged
├── ExportError                         a model cannot leave in the form that was asked for, or not to that place
│   ├── ExportMismatchError             what was read back is not the model that was trained
│   └── DriftError                      the form would change the model more than max_drift allows
├── GateError                           a finished stage did not reach what it must; exit code 3
│   ├── RequirementError                a number of `require` was not reached
│   └── ForgettingError                 the model moved further from its input than `max_forgetting` allows
├── NotEnoughMemoryError (MemoryError)  a stage would need more memory than there is; found before weights are loaded
├── ProcessDiedError                    a process that helped to prepare data ended before its work was done
├── DiskError (OSError)                 the disk fails, or takes nothing any more
│   └── DiskSpaceError                  it is full, or would be
├── CommandError                        a command that the page ran as another process gave no answer; its last words
└── RunInterrupted (SystemExit)         SIGTERM or Ctrl-C: state saved, exit code 75, run again to go on

Adding one: put it under the nearest parent, say in one line what the user did, and give it only a message
(errors cross process borders, so they must stay picklable).
"""


class PosttrainError(Exception):
    """The root of the tree; catch it to catch everything this library raises on purpose."""


class ConfigurationError(PosttrainError, ValueError):
    """Something is wrong with the pipeline as it was written down."""


class SettingError(ConfigurationError):
    """An unknown setting, or a value out of its range."""


class PipelineError(ConfigurationError):
    """The list of stages does not fit together."""


class StrategyError(ConfigurationError):
    """A strategy was asked for something it cannot do."""


class RecipeError(ConfigurationError):
    """A recipe file cannot be read, or says what a recipe cannot say; the text has its line."""


class LaunchError(ConfigurationError):
    """Several processes were started in a way that is not supported."""


class ModelError(ConfigurationError):
    """The starting model is missing, is no model, or has the wrong head."""


class DataError(PosttrainError, ValueError):
    """Something is wrong with the data."""


class DataFileError(DataError):
    """A data file is missing, empty, unreadable, or in no known format."""


class RowError(DataError):
    """Rows that break their format; the text lists them as file:line field."""


class OverlongError(DataError):
    """More rows than allowed do not fit into `max_length` tokens."""


class EmptyStageDataError(DataError):
    """Nothing is left to train on."""


class HandoverError(PosttrainError):
    """A proof between two stages failed."""


class ReferenceMismatchError(HandoverError):
    """The policy is not its reference before step 1."""


class NothingTrainedError(HandoverError):
    """No trainable parameter moved."""


class WrongBaseError(HandoverError):
    """An adapter was about to be put on another base than the one it was trained on."""


class ArtifactMismatchError(HandoverError):
    """What was read back from disk does not give what was trained."""


class RunFolderError(PosttrainError):
    """The run folder cannot be used."""


class RunLockedError(RunFolderError):
    """Another process works in the run folder."""


class OtherPipelineError(RunFolderError):
    """The run folder belongs to another pipeline."""


class NoSuchStageError(RunFolderError, KeyError):
    """The run has no finished stage of that name."""

    __str__ = Exception.__str__  # KeyError would put the sentence in quotes


class CorruptArtifactError(RunFolderError):
    """A committed file is missing, cut, or changed."""


class TrainingError(PosttrainError):
    """Training itself went wrong."""


class TrainingDivergedError(TrainingError):
    """The loss or a trained parameter is not a finite number."""


class RewardError(TrainingError):
    """A reward function raised, or gave the wrong count, the wrong type, NaN or infinity."""


class SamplerError(TrainingError):
    """vLLM, which was to answer for the policy, does not answer, or answers from another model."""


class RewardGateError(TrainingError):
    """The reward model ranks held-out pairs too badly to be optimised against."""


class NoValidCheckpointError(TrainingError):
    """All checkpoints of a stage are damaged."""


class ExportError(PosttrainError):
    """A model cannot leave in the form that was asked for, or not to that place; nothing was left there."""


class ExportMismatchError(ExportError):
    """What was read back in a fresh process is not the model that was trained; the export was removed."""


class DriftError(ExportError):
    """The form would change the model more than `max_drift` allows; the export was removed."""


class GateError(PosttrainError):
    """The chain stops behind a stage that did not reach what it must; the stage is finished and kept."""


class RequirementError(GateError):
    """A number of `require` was not reached."""


class ForgettingError(GateError):
    """The model moved further from its input than `max_forgetting` allows."""


class NotEnoughMemoryError(PosttrainError, MemoryError):
    """A stage would need more memory than there is; nothing was loaded."""


class ProcessDiedError(PosttrainError):
    """A process that helped to prepare data ended before its work was done."""


class DiskError(PosttrainError, OSError):
    """The disk fails, or takes nothing any more."""


class DiskSpaceError(DiskError):
    """The disk is full, or would be."""


class CommandError(PosttrainError):
    """A command that a page ran as another process ended without an answer; the text is its last words."""


class RunInterrupted(PosttrainError, SystemExit):
    """SIGTERM or Ctrl-C arrived; the state is saved and the process ends with exit code 75.

    75 is EX_TEMPFAIL of sysexits.h: not a failure, run the same command again to go on.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = 75
