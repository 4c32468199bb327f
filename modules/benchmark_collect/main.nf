include { quoted ; words } from '../shell'

// What the pipeline's own steps made of one split, in the form of every method's result
process BENCHMARK_COLLECT {
    tag "${run.id}"
    label 'process_low'
    label 'image_cpu'

    input:
    tuple val(run), path(embedding), path(imputed), path(contrast), path(costs, stageAs: 'costs/?/*') // imputed, contrast: or []

    output:
    tuple val(run), path('result'), emit: result
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    def stores = (imputed instanceof List ? imputed : [imputed]).collect { store -> "--imputed=${quoted(store)}" }.join(' ')
    def spent  = (costs instanceof List ? costs : [costs]).collect { cost -> "--cost=${quoted(cost)}" }.join(' ')
    """
    multivi-nf-benchmark-collect --resources collect.resources.json ${words(embedding)} ${stores} ${spent} \\
        ${contrast ? '--contrast=' + quoted(contrast) : ''} --method=${quoted(run.method)} --output=result
    """

    stub:
    """
    mkdir result
    echo '{}' > result/run.json
    echo '{}' > collect.resources.json
    """
}
