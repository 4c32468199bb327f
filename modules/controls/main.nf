include { options ; threads } from '../shell'

// What chance gives on these cells: short runs with pairs as they are and shuffled, contrasts of permuted groups
process CONTROLS {
    label 'process_medium'
    label 'image_cuda'
    label 'process_gpu'

    input:
    path embedding
    path model
    val settings // [ groupby, seed, device ]

    output:
    path 'controls.tsv', emit: table
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    multivi-nf-controls --resources controls.resources.json ${embedding} ${model} --output=controls.tsv ${options(settings)}
    """

    stub:
    """
    touch controls.tsv
    echo '{}' > controls.resources.json
    """
}
