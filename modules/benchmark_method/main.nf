include { quoted ; threads } from '../shell'

// A method of the package itself on one split. What it cannot do becomes a row of the table, with the reason.
process METHOD {
    tag "${run.id}"
    label 'process_low'
    label 'image_cuda'

    input:
    tuple val(run), path(split, stageAs: 'task'), path(mosaic) // run: [ id, method ]; the whole mosaic, for the ceiling only

    output:
    tuple val(run), path('result'), emit: result
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    multivi-nf-benchmark-run --resources method.resources.json ${quoted(run.method)} task --complete=${mosaic} --output=result
    """

    stub:
    """
    mkdir result
    echo '{}' > result/run.json
    echo '{}' > method.resources.json
    """
}
