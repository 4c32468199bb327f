include { options ; threads } from '../shell'

// MultiVI, trained on the mosaic. Checkpoints lie in $MULTIVI_NF_CHECKPOINT_DIR, outside of the task's hash.
process TRAIN {
    label 'process_high'
    label 'process_long'
    label 'image_cuda'
    label 'process_gpu'

    input:
    path mosaic
    path reference, stageAs: 'reference/*' // trained model that the samples are mapped onto, or []
    val settings                           // architecture, objective, training, seed

    output:
    path 'model', emit: model              // config.json, weights.safetensors, features.tsv, history.tsv, split.tsv
    path '*.resources.json', emit: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions
    tuple val("${task.process}"), val('purls'), eval('multivi-nf --purls'), topic: versions

    script:
    // Time to save a checkpoint: no signal can be counted on
    def minutes = [task.time.toMinutes() - 10, 1].max()
    """
    ${threads(task.cpus)}
    multivi-nf-train --resources train.resources.json ${mosaic} --output=model --resume --time-limit=${minutes} \\
        ${options(reference: reference)} ${options(settings)}
    """

    stub:
    """
    mkdir model
    touch model/config.json model/weights.safetensors model/features.tsv model/history.tsv model/split.tsv
    echo '{}' > train.resources.json
    """
}
