include { options ; threads } from '../shell'

// MultiVI, trained on the mosaic. Checkpoints lie in $MULTIVI_NF_CHECKPOINT_DIR, outside of the task's hash.
process TRAIN {
    label 'process_high'
    label 'process_long'
    label 'image_cuda'
    label 'process_gpu'

    input:
    tuple val(run), path(mosaic)           // run: [ id?, options? ]: which of several models, and how it differs
    path reference, stageAs: 'reference/*' // trained model that the samples are mapped onto, or []
    val settings                           // architecture, objective, training, seed

    output:
    tuple val(run), path('model'), emit: model // config.json, weights.safetensors, features.tsv, history.tsv, split.tsv
    tuple val(run), path('*.resources.json'), emit: cost, topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions
    tuple val("${task.process}"), val('purls'), eval('multivi-nf --purls'), topic: versions

    script:
    // Time to save a checkpoint: no signal can be counted on
    def minutes = [task.time.toMinutes() - 10, 1].max()
    """
    ${threads(task.cpus)}
    multivi-nf-train --resources train.resources.json ${mosaic} --output=model --resume --time-limit=${minutes} \\
        ${options(reference: reference)} ${options(settings + (run.options ?: [:]))}
    """

    stub:
    """
    mkdir model
    touch model/config.json model/weights.safetensors model/features.tsv model/history.tsv model/split.tsv
    echo '{}' > train.resources.json
    """
}
