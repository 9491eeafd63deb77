"""Lightning callbacks: when to explain, which images, and where to write the results."""

from convlens.callbacks.activation_grids import ActivationGrids
from convlens.callbacks.alarms import Alarms
from convlens.callbacks.attention_maps import AttentionMaps
from convlens.callbacks.attention_scores import AttentionScores
from convlens.callbacks.attribution import Attribution
from convlens.callbacks.augmentation_preview import AugmentationPreview
from convlens.callbacks.class_means import ClassMeans
from convlens.callbacks.confusion_matrix import ConfusionMatrix
from convlens.callbacks.data_diary import DataDiary
from convlens.callbacks.feature_space import FeatureSpace
from convlens.callbacks.filter_visuals import FilterVisuals
from convlens.callbacks.grad_cam import GradCam
from convlens.callbacks.layer_changes import LayerChanges
from convlens.callbacks.learning_curves import LearningCurves
from convlens.callbacks.ledger import Ledger
from convlens.callbacks.legrad import LeGrad
from convlens.callbacks.logging.config_text import ConfigText
from convlens.callbacks.logging.epoch_log import EpochLog
from convlens.callbacks.logging.events import EventLogger
from convlens.callbacks.logging.hparams import HParams
from convlens.callbacks.logging.progress import ProgressBar
from convlens.callbacks.looks import ExplanationCallback, Looks
from convlens.callbacks.mistakes import Mistakes
from convlens.callbacks.occlusion_maps import OcclusionMaps
from convlens.callbacks.reliability import Reliability
from convlens.callbacks.scores import Scores
from convlens.callbacks.shortcuts import Shortcuts
from convlens.callbacks.slices import Slices

__all__ = [
    "ActivationGrids",
    "Alarms",
    "AttentionMaps",
    "AttentionScores",
    "Attribution",
    "AugmentationPreview",
    "ClassMeans",
    "ConfigText",
    "ConfusionMatrix",
    "DataDiary",
    "EpochLog",
    "EventLogger",
    "ExplanationCallback",
    "FeatureSpace",
    "FilterVisuals",
    "GradCam",
    "HParams",
    "LayerChanges",
    "LeGrad",
    "LearningCurves",
    "Ledger",
    "Looks",
    "Mistakes",
    "OcclusionMaps",
    "ProgressBar",
    "Reliability",
    "Scores",
    "Shortcuts",
    "Slices",
]
